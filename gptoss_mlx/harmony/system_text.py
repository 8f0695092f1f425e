"""The text of the system and the developer message: settings, instructions and tools as gpt-oss learnt to read them."""

from collections.abc import Sequence

from gptoss_mlx.harmony.messages import DeveloperContent, SystemContent, ToolNamespace
from gptoss_mlx.harmony.typescript import typescript_type


def system_text(content: SystemContent, *, with_functions: bool = False) -> str:
    """The system message's text: sections with a blank line between; what is None or empty leaves nothing.

    with_functions: whether a developer message of the conversation offers functions, which adds one line on channels.
    """
    sections: list[str] = []
    top: list[str] = []
    if content.model_identity is not None:
        top.append(content.model_identity)
    if content.knowledge_cutoff is not None:
        top.append(f"Knowledge cutoff: {content.knowledge_cutoff}")
    if content.conversation_start_date is not None:
        top.append(f"Current date: {content.conversation_start_date}")
    if top:
        sections.append("\n".join(top))
    if content.reasoning_effort is not None:
        sections.append(f"Reasoning: {content.reasoning_effort}")
    if content.tools:
        sections.append(tools_text(content.tools))
    channels = content.channel_config
    if channels is not None and channels.valid_channels:
        line = f"# Valid channels: {', '.join(channels.valid_channels)}."
        if channels.channel_required:
            line += " Channel must be included for every message."
        if with_functions:
            line += "\nCalls to these tools must go to the commentary channel: 'functions'."
        sections.append(line)
    return "\n\n".join(sections)


def developer_text(content: DeveloperContent) -> str:
    """The developer message's text: the instructions (also when they are empty), the tools, the form of the answer."""
    sections: list[str] = []
    if content.instructions is not None:
        sections += ["# Instructions", content.instructions]
    if content.tools:
        sections.append(tools_text(content.tools))
    if content.response_format is not None:
        sections += ["# Response Formats", content.response_format]
    return "\n\n".join(sections)


def tools_text(namespaces: Sequence[ToolNamespace]) -> str:
    """The "# Tools" section, the namespaces in the order of their names' bytes."""
    ordered = sorted(namespaces, key=lambda namespace: namespace.name.encode("utf-8", "surrogatepass"))
    return "\n\n".join(["# Tools", *(_namespace_text(namespace) for namespace in ordered)])


def _namespace_text(namespace: ToolNamespace) -> str:
    lines = [f"## {namespace.name}\n"]
    mark = "// " if namespace.tools else ""
    lines += [mark + line for line in split_lines(namespace.description or "")]
    if namespace.tools:
        lines.append(f"namespace {namespace.name} {{\n")
        for tool in namespace.tools:
            lines += [f"// {line}" for line in split_lines(tool.description)]
            arguments = "" if tool.parameters is None else f"_: {typescript_type(tool.parameters)}"
            lines.append(f"type {tool.name} = ({arguments}) => any;\n")
        lines.append(f"}} // namespace {namespace.name}")
    return "\n".join(lines)


def split_lines(text: str) -> list[str]:
    """Lines that end in a line feed, with or without a carriage return before it; nothing after the last one.

    str.splitlines would also split at form feeds, U+2028 and others.
    """
    lines = text.split("\n")
    last = lines.pop()
    lines = [line.removesuffix("\r") for line in lines]
    return [*lines, last] if last else lines
