"""Whether a model fits: numbers, and advice that is true."""

from dataclasses import replace

import pytest

from gptoss_mlx.device import Device, this_device
from gptoss_mlx.errors import NotEnoughDisk, NotEnoughMemory
from gptoss_mlx.published_fit import fit_line, published_fit


def machine(memory_gb: float, working_set_gb: float | None) -> Device:
    mac = working_set_gb is not None
    working_set = int(working_set_gb * 1e9) if working_set_gb is not None else None
    return replace(this_device(), memory_bytes=int(memory_gb * 1e9), working_set_bytes=working_set, gpu=mac, metal=mac)


def test_20b_fits_a_24_gb_mac_and_not_one_of_16() -> None:
    assert published_fit("20b", machine(24, 17.8)).memory_ok
    small = published_fit("20b", machine(17.2, 11.5))
    assert not small.memory_ok
    with pytest.raises(NotEnoughMemory, match=r"20b takes 15.6 GB of memory .* Metal recommends 11.5"):
        replace(small, disk_free_bytes=10**12).check()


@pytest.mark.parametrize(
    ("working_set_gb", "advice"),
    [
        (15.5, "a context of 6,144 tokens fits: --context 6144; --dense-bits 8 takes 13.8 GB, which fits"),
        (13.5, "--dense-bits 6 takes 13.4 GB, which fits"),
        (11.5, "even --dense-bits 4 takes 12.9 GB"),
    ],
)
def test_the_advice_names_the_most_that_fits(working_set_gb: float, advice: str) -> None:
    assert "; ".join(published_fit("20b", machine(16, working_set_gb)).advice) == advice


def test_120b_says_that_20b_takes_less() -> None:
    fit = published_fit("120b", machine(32, None))
    assert fit.advice[-1].endswith("gptoss pull 20b")
    assert "DOES NOT FIT" in fit_line(fit)
    assert published_fit("120b", machine(96, 77)).memory_ok


def test_the_table_has_every_figure() -> None:
    fit = published_fit("20b", machine(32, 24))
    table = "\n".join(fit.lines())
    for label in ("download", "result", "disk", "memory", "weights", "KV cache"):
        assert label in table
    assert fit.memory_needed_bytes == fit.weights_bytes + fit.kv_bytes + fit.rest_bytes
    with pytest.raises(NotEnoughDisk, match=r"20b takes .* GB more of the disk and 1.0 GB are free: free"):
        replace(fit, disk_free_bytes=10**9).check()
    assert "DOES NOT FIT" in "\n".join(replace(fit, disk_free_bytes=10**9).lines())
