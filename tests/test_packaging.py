"""The package map, the folders and the links agree, and an import costs next to nothing."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import gptoss_mlx

ROOT = Path(__file__).parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
MAPPED = {"gptoss_mlx.app": "app", "gptoss_mlx.convert": "convert", "gptoss_mlx.metal": "metal"}


def found_packages() -> set[str]:
    """Every folder with an __init__.py, under its import name."""
    names = set()
    for top, name in (("gptoss_mlx", "gptoss_mlx"), *((folder, name) for name, folder in MAPPED.items())):
        for init in (ROOT / top).rglob("__init__.py"):
            inner = init.parent.relative_to(ROOT / top).parts
            if not any((ROOT / top / Path(*inner[: i + 1])).is_symlink() for i in range(len(inner))):
                names.add(".".join((name, *inner)))
    return names


def test_the_list_of_packages_is_complete_and_sorted():
    assert SETUPTOOLS["packages"] == sorted(SETUPTOOLS["packages"])
    assert set(SETUPTOOLS["packages"]) == found_packages()


def test_the_map_and_the_links_lead_to_the_same_folders():
    assert SETUPTOOLS["package-dir"] == {"gptoss_mlx": "gptoss_mlx", **MAPPED}
    for name, folder in MAPPED.items():
        link = ROOT / "gptoss_mlx" / name.removeprefix("gptoss_mlx.")
        assert link.is_symlink()
        assert not link.readlink().is_absolute()
        assert link.resolve() == (ROOT / folder).resolve()


def test_every_public_name_can_be_had_and_no_other():
    for name in gptoss_mlx.__all__:
        assert getattr(gptoss_mlx, name) is not None
    assert sorted(gptoss_mlx.__all__, key=str.lower) == sorted(set(gptoss_mlx.__all__), key=str.lower)
    assert "GptOss" in dir(gptoss_mlx)
    assert not hasattr(gptoss_mlx, "nonsense")


def measured_import(statement: str) -> tuple[float, set[str]]:
    """Milliseconds that a statement takes in a fresh interpreter (best of five), and the modules there afterwards."""
    code = (
        "import sys, time, json; start = time.perf_counter(); "
        f"{statement}; print(json.dumps([(time.perf_counter() - start) * 1000, sorted(sys.modules)]))"
    )
    runs = [json.loads(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT)) for _ in range(5)]
    return min(run[0] for run in runs), set(runs[0][1])


def test_the_import_takes_less_than_150_ms_and_loads_nothing_heavy():
    milliseconds, modules = measured_import("import gptoss_mlx")
    assert milliseconds < 150
    assert not modules & {"transformers", "mlx_lm", "textual", "mlx.core", "torch", "rich"}


def test_loading_a_model_needs_neither_transformers_nor_mlx_lm_nor_textual_nor_torch():
    _, modules = measured_import("from gptoss_mlx import load")
    assert not modules & {"transformers", "mlx_lm", "textual", "torch", "rich"}


def test_help_takes_less_than_200_ms_past_the_interpreters_start():
    statement = (
        "import io, contextlib\nwith contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        " from gptoss_mlx.cli import main; main(['--help'])\n"
    )
    milliseconds, modules = measured_import(f"exec({statement!r})")
    assert milliseconds < 200
    assert not modules & {"mlx.core", "numpy", "rich", "tiktoken"}
