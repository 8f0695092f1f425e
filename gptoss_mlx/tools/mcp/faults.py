"""What went wrong with a server, in words."""

from gptoss_mlx.tools.mcp.spec import ServerSpec


def describe_fault(error: BaseException, spec: ServerSpec) -> str:
    """One sentence on `error`, which comes from the library or the system."""
    error = _first(error)
    if isinstance(error, TimeoutError):
        return str(error) or "it did not answer in time"
    if spec.url is None and isinstance(error, OSError):
        where = f" in {spec.cwd}" if spec.cwd is not None else ""
        return f"{spec.command[0]!r} cannot be run{where} ({error.strerror or error})"
    from mcp import MCPError
    from mcp_types import CONNECTION_CLOSED
    from pydantic import ValidationError

    if isinstance(error, MCPError):
        if error.code == CONNECTION_CLOSED:
            return "it ended before it answered"
        return f"it refused: {' '.join(error.message.split())}"
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"it breaks the protocol ({'.'.join(map(str, first['loc']))}: {first['msg']})"
    told = f"{type(error).__name__}: {error}".removesuffix(": ")
    return f"{spec.url} cannot be used ({told})" if spec.url is not None else told


def _first(error: BaseException) -> BaseException:
    """The first cause in a group of errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
