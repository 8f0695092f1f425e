"""How a `.metal` file becomes a kernel: includes, comments, and who makes it."""

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import pytest

from gptoss_mlx.metal import library
from gptoss_mlx.metal.library import Kernel, made_by, read_source


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Files of a package of kernels that a test makes up."""
    files: dict[str, str] = {}
    monkeypatch.setattr(library, "_read", files.__getitem__)
    read_source.cache_clear()
    yield files
    read_source.cache_clear()


def test_an_include_is_replaced_by_the_header_and_a_second_one_by_nothing(sources: dict[str, str]):
    sources["inner.h"] = "int inner();"
    sources["outer.h"] = '#include "inner.h"\nint outer();'
    sources["k.metal"] = '#include "outer.h"\n#include "inner.h"\nint k();'
    assert read_source("k").split() == ["int", "inner();", "int", "outer();", "int", "k();"]


def test_system_includes_stay(sources: dict[str, str]):
    sources["k.metal"] = "#include <metal_stdlib>\nint k();"
    assert read_source("k").startswith("#include <metal_stdlib>\n")


def test_comments_go_and_the_number_of_lines_stays(sources: dict[str, str]):
    sources["k.metal"] = "// what it is\nint k(); // why\n/* two\nlines */ int l();\n"
    assert read_source("k") == "\nint k();\n\n int l();\n"


def test_a_kernel_is_made_once_and_again_by_another_maker(sources: dict[str, str]):
    sources["k.metal"] = "int k();"
    made: list[dict[str, Any]] = []

    def maker(**names: Any):
        made.append(names)
        return lambda **call: [mx.zeros(call["output_shapes"][0], call["output_dtypes"][0])]

    kernel = Kernel("k", inputs=["x"], outputs=["y"], body="k();")

    def launch() -> mx.array:
        (y,) = kernel(
            mx.zeros((3,)),
            template={"T": mx.float32, "N": 3},
            grid=(3, 1, 1),
            threadgroup=(3, 1, 1),
            shapes=[(3,)],
            dtypes=[mx.float16],
        )
        return y

    with made_by(maker):
        assert launch().dtype == mx.float16
        launch()
    assert [one["name"] for one in made] == ["k"]
    assert (made[0]["source"], made[0]["header"]) == ("k();", "int k();")
    with made_by(lambda **names: maker(**names)):
        launch()
    assert len(made) == 2


def test_every_source_of_the_package_can_be_read_and_is_ascii():
    stems = [name.removesuffix(".metal") for name in _names() if name.endswith(".metal")]
    for stem in stems:
        source = read_source(stem)
        assert source.isascii()
        assert '#include "' not in source


def test_a_source_is_small_enough_to_be_hashed_at_every_call():
    for name in _names():
        if name.endswith(".metal"):
            assert len(read_source(name.removesuffix(".metal"))) < 20_000


def _names() -> list[str]:
    return [entry.name for entry in library.resources.files("gptoss_mlx.metal").iterdir()]
