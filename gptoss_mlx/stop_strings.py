"""Finds where a streamed text must stop, and never shows the beginning of a stop string that completes later."""

from collections.abc import Sequence


class StopStrings:
    """Passes text through until one of the stop strings appears; the text before it is kept, the rest dropped."""

    def __init__(self, stops: Sequence[str]) -> None:
        """`stops` are non-empty strings; none at all lets everything through."""
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False
        """True once a stop string was met."""

    def feed(self, text: str) -> str:
        """The part of the text so far that is safe to show and was not shown yet."""
        if self.stopped:
            return ""
        if not self._stops:
            return text
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = self._longest_beginning()
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def flush(self) -> str:
        """What was held back and can be shown now that the text is over."""
        shown, self._held = self._held, ""
        return shown

    def _longest_beginning(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        for length in range(min(len(self._held), max(map(len, self._stops)) - 1), 0, -1):
            tail = self._held[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
