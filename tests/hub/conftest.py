"""A small checkpoint of the true layout, and a hub that serves it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from gptoss_mlx.convert import fetch, part
from gptoss_mlx.models import POCKET_FOLDER
from tests.hub.stand_in import StandInHub
from tests.layout_writers import write_mlx
from tests.random_checkpoint import random_checkpoint, random_tensors, tiny_config


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository as OpenAI's is: three shards at the root, the small files, and copies that nobody needs. 9 MB."""
    folder = random_checkpoint(
        tmp_path_factory.mktemp("published") / "gpt-oss-20b",
        seed=3,
        shards=3,
        vocab_size=3021,
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=6,
    )
    shutil.copy(POCKET_FOLDER / "tokenizer.json", folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": [61]}\n')
    (folder / "README.md").write_text("# A model\n")
    for other in ("original", "metal"):
        (folder / other).mkdir()
        (folder / other / "config.json").write_text("{}")
        (folder / other / "model.safetensors").write_bytes(bytes(20_000))
    return folder


@pytest.fixture(scope="session")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with shards that go over several connections without tricks. 87 MB."""
    folder = random_checkpoint(
        tmp_path_factory.mktemp("larger") / "gpt-oss-20b",
        seed=4,
        shards=3,
        vocab_size=3021,
        hidden_size=1024,
        intermediate_size=1024,
        num_hidden_layers=6,
    )
    shutil.copy(POCKET_FOLDER / "tokenizer.json", folder)
    return folder


@pytest.fixture(scope="session")
def published_mlx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository as mlx-community's are, whose gate and up lie apart; three shards, 9 MB."""
    config = tiny_config(vocab_size=3021, hidden_size=256, intermediate_size=256, num_hidden_layers=6)
    folder = tmp_path_factory.mktemp("published-mlx") / "gpt-oss-20b-mlx"
    write_mlx(folder, config, random_tensors(config, seed=5), shards=3)
    shutil.copy(POCKET_FOLDER / "tokenizer.json", folder)
    return folder


@pytest.fixture
def hub(published: Path) -> Iterator[StandInHub]:
    with StandInHub(published) as served:
        yield served


@pytest.fixture
def endpoint(hub: StandInHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What HF_ENDPOINT and HF_HOME do for a new process."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub cache"))
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", hub.url)


def cut_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files go over several connections in many pieces, as large ones do."""
    monkeypatch.setattr(fetch, "SMALL_BYTES", 200_000)
    monkeypatch.setattr(part, "EXTENT_BYTES", 50_000)
