"""How far the download of a model is: a bar and figures, or how it ended."""

from typing import Final

from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from gptoss_mlx.app.model_download import ModelDownload

BAR_CELLS: Final = 30


class DownloadLine(Widget):
    """Two lines at most; takes no place while nothing was downloaded."""

    said: reactive[Content] = reactive(Content(""), layout=True)

    def show(self, download: ModelDownload) -> None:
        """How far it is now."""
        self.said = describe(download)
        self.display = bool(self.said.plain)

    def render(self) -> Content:
        return self.said


def describe(download: ModelDownload) -> Content:
    """What there is to say of it; nothing before the first one."""
    name = download.model or ""
    match download.state:
        case "none":
            return Content("")
        case "stopped":
            return Content(f"{name}: stopped; Enter on it goes on from there")
        case "failed":
            return Content.styled(f"{name}: {download.error}", "$text-error")
        case "done":
            return Content.styled(f"{name} is here and verified; Enter loads it", "$text-success")
    progress = download.progress
    if progress is None:
        return Content(f"{name}: asking the hub")
    if progress.state == "waiting":
        return Content(f"{name}: another process downloads it; waiting for that")
    # Files are converted while others come: the whole is both.
    total = progress.download_bytes + progress.convert_bytes
    share = (progress.downloaded_bytes + progress.converted_bytes) / total if total else 0.0
    filled = min(int(share * BAR_CELLS), BAR_CELLS)
    figures = ", ".join(
        words
        for words in (
            f"{_gb(progress.downloaded_bytes)} of {_gb(progress.download_bytes)} GB",
            f"{download.bytes_per_second / 1e6:.1f} MB/s" if download.bytes_per_second else "",
            download.left,
            f"{_gb(progress.converted_bytes)} GB ready" if progress.converted_bytes else "",
        )
        if words
    )
    return Content.assemble(
        f"{name} ",
        ("━" * filled, "$primary"),
        ("─" * (BAR_CELLS - filled), "$border"),
        f" {int(share * 100)} %\n",
        (figures, "$foreground-muted"),
    )


def _gb(number: int) -> str:
    return f"{number / 1e9:.1f}"
