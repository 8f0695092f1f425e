"""What a benchmark is going to do, and what is refused before the first process starts."""

import json
from pathlib import Path
from typing import Any

import pytest

from gptoss_mlx.bench import plan as plan_module
from gptoss_mlx.bench.plan import OURS, Settings, draw_prompt, make_plan
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import GptOssError, UsageError
from gptoss_mlx.models import POCKET_FOLDER
from gptoss_mlx.tokenizer import Tokenizer
from tests.random_checkpoint import tiny_config

POCKET_CONFIG = ModelConfig.from_file(POCKET_FOLDER / "config.json")


def folder_with_config(folder: Path, **changes: object) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(tiny_config(**changes)))
    return folder


def test_a_prompt_is_made_of_ordinary_tokens_and_depends_on_the_seed_alone(pocket_tokenizer: Tokenizer):
    prompt = draw_prompt(POCKET_FOLDER, POCKET_CONFIG, 3000, seed=7)
    assert len(prompt) == 3000
    assert len(set(prompt)) > 1000
    assert not any(pocket_tokenizer.is_special(token) for token in prompt)
    assert prompt == draw_prompt(POCKET_FOLDER, POCKET_CONFIG, 3000, seed=7)
    assert prompt[:100] == draw_prompt(POCKET_FOLDER, POCKET_CONFIG, 100, seed=7)
    assert prompt != draw_prompt(POCKET_FOLDER, POCKET_CONFIG, 3000, seed=8)


def test_a_folder_without_a_tokenizer_has_a_prompt_too(tmp_path: Path):
    plan = make_plan(str(folder_with_config(tmp_path / "tiny")), Settings(prompt_tokens=500))
    assert 0 <= min(plan.prompt) <= max(plan.prompt) < 64


def test_each_engine_loads_the_same_folder_unless_the_peer_has_one_of_its_own(tmp_path: Path):
    assert make_plan("pocket", Settings()).engines == [OURS]
    same = make_plan("pocket", Settings(), peer="mlx-lm")
    assert [same.folder_of(engine) for engine in same.engines] == [POCKET_FOLDER, POCKET_FOLDER]
    other = folder_with_config(tmp_path / "other", vocab_size=POCKET_CONFIG.vocab_size)
    own = make_plan("pocket", Settings(), peer="mlx-lm", peer_model=str(other))
    assert [own.folder_of(engine) for engine in own.engines] == [POCKET_FOLDER, other]


def test_a_peer_that_is_not_installed_is_one_sentence_that_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(plan_module.PEERS, "mlx-lm", "a_module_that_nobody_has")
    with pytest.raises(UsageError, match=r"mlx-lm is not installed.*pip install 'gptoss-mlx\[bench\]'"):
        make_plan("pocket", Settings(), peer="mlx-lm")


@pytest.mark.parametrize("changes", [{"prompt_tokens": 0}, {"decode_tokens": 1}, {"runs": 0}, {"timeout_seconds": 0.0}])
def test_numbers_out_of_range_are_refused(changes: dict[str, Any]):
    with pytest.raises(UsageError, match="expected"):
        Settings(**changes)


def test_what_does_not_belong_together_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="131072, the context length of pocket"):
        make_plan("pocket", Settings(prompt_tokens=131072, decode_tokens=2))
    with pytest.raises(UsageError, match="--against mlx-lm"):
        make_plan("pocket", Settings(), peer_model="pocket")
    with pytest.raises(UsageError, match="vocab_size 64; expected 3021"):
        make_plan("pocket", Settings(), peer="mlx-lm", peer_model=str(folder_with_config(tmp_path / "tiny")))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("[1,")
    with pytest.raises(GptOssError, match="no JSON object"):
        make_plan("pocket", Settings(), peer="mlx-lm", peer_model=str(tmp_path / "broken"))
