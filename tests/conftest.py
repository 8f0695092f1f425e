"""What all tests share: the pocket model, its tokenizer, and conversions of it."""

import gc
import os
from collections.abc import Callable, Iterator

import pytest

from gptoss_mlx import GptOss, load
from gptoss_mlx.convert.conversion import convert_model
from gptoss_mlx.models import POCKET_FOLDER
from gptoss_mlx.tokenizer import Tokenizer
from tests.simulator.compiler import unsupported

# On a Mac, each of the many processes of the tests would check the kernels first: those are tested by themselves
# (tests/metal, tests/kernel_check), and `gptoss check` is for the machine's own GPU. Set it to run all tests on them.
os.environ.setdefault("GPTOSS_KERNELS", "off")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what runs kernels in the simulator where it cannot run, on a Mac above all, with the reason."""
    reason = unsupported()
    if reason is None:
        return
    for item in items:
        module = getattr(item, "module", None)
        held = () if module is None else vars(module).values()
        if any(str(getattr(value, "__module__", "")).startswith("tests.simulator") for value in held):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module", autouse=True)
def settled() -> None:
    """What earlier modules left behind is looked at once: closing a model collects garbage, and that would look at all
    objects of a process of thousands of tests each time (measured: 1.4 s more a test at the end of the suite)."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def pocket_tokenizer() -> Tokenizer:
    return Tokenizer.from_file(POCKET_FOLDER / "tokenizer.json")


@pytest.fixture(scope="session")
def pocket() -> Iterator[GptOss]:
    with load("pocket", date="2026-01-31") as model:
        yield model


@pytest.fixture(scope="session")
def conversions(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int | None], str]:
    """The pocket model's folder with dense weights of that many bits."""
    root = tmp_path_factory.mktemp("conversions")
    for bits in (None, 8, 4):
        convert_model(POCKET_FOLDER, root / f"pocket-{bits}", dense_bits=bits)
    return lambda bits: str(root / f"pocket-{bits}")
