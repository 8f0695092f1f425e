"""How much memory of this machine nobody needs right now: what its system counts as free or quickly freed."""

import re
import subprocess
import sys
from pathlib import Path


def free_memory_bytes() -> int | None:
    """Bytes that are to be had without swapping; None where the system does not say."""
    try:
        if sys.platform == "darwin":
            said = subprocess.run(["vm_stat"], capture_output=True, text=True, timeout=5, check=True).stdout
            return _of_vm_stat(said)
        return _of_meminfo(Path("/proc/meminfo").read_text(encoding="ascii"))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _of_meminfo(text: str) -> int | None:
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", text, re.MULTILINE)
    return None if found is None else int(found[1]) * 1024


def _of_vm_stat(text: str) -> int | None:
    """macOS: pages that are free, or kept only in case they are wanted again."""
    page = re.search(r"page size of (\d+) bytes", text)
    pages = re.findall(r"^Pages (?:free|inactive|speculative|purgeable):\s+(\d+)\.$", text, re.MULTILINE)
    return None if page is None or not pages else int(page[1]) * sum(map(int, pages))
