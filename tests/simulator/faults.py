"""What the simulator finds wrong with a kernel."""


class Fault(AssertionError):
    """Something that a GPU would not do, or not do dependably: one sentence with the kind, the kernel, the buffer, the
    thread and the line of the source."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        """What is wrong, as `"write/write race"`."""


class CompileError(Fault):
    """What Metal's compiler, or MLX, would refuse before anything runs."""

    def __init__(self, message: str) -> None:
        super().__init__("refused", message)
