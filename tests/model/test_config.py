"""config.json: what is read from it, what follows, and everything that is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from gptoss_mlx.config import HARMLESS_KEYS, PRESETS, ModelConfig
from gptoss_mlx.errors import ConfigError
from tests.random_checkpoint import tiny_config

YARN = tiny_config()["rope_scaling"]


def test_the_published_sizes_are_counted_as_openai_counts_them() -> None:
    small, large = PRESETS["20b"], PRESETS["120b"]
    assert round(small.parameters / 1e9, 1) == 20.9
    assert round(small.active_parameters / 1e9, 1) == 3.6
    assert round(large.parameters / 1e9, 1) == 116.8
    assert round(large.active_parameters / 1e9, 1) == 5.1
    assert small.weight_bytes == 13_761_264_768
    assert round(large.weight_bytes / 1e9, 1) == 65.2
    assert (small.kv_bytes_per_token(), large.kv_bytes_per_token()) == (24_576, 36_864)
    assert (small.num_experts, large.num_experts, small.experts_per_token) == (32, 128, 4)


def test_every_value_is_read_under_its_hugging_face_name() -> None:
    config = ModelConfig.from_dict(tiny_config(swiglu_limit=5.0, sliding_window=99, rms_norm_eps=1e-6))
    assert (config.hidden_size, config.intermediate_size, config.head_dim, config.vocab_size) == (64, 96, 16, 64)
    assert (config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads) == (4, 8, 2)
    assert (config.num_local_experts, config.num_experts_per_tok) == (8, 4)
    assert config.layer_types == ("sliding_attention", "full_attention") * 2
    assert (config.swiglu_limit, config.swiglu_alpha, config.sliding_window, config.rms_norm_eps) == (
        5.0,
        1.702,
        99,
        1e-6,
    )
    assert (config.rope.theta, config.rope.factor, config.rope.truncate) == (150000.0, 32.0, False)
    assert config.rope.attention_factor == pytest.approx(1.3465735902799727)
    assert config.eos_token_ids == (61,)


def test_old_and_new_names_of_the_rotary_parameters_mean_the_same() -> None:
    old = ModelConfig.from_dict(tiny_config())
    new = tiny_config(rope_scaling=None, rope_theta=None, rope_parameters={**YARN, "rope_theta": 150000.0})
    both = tiny_config(rope_parameters={**YARN}, rope_scaling={**YARN})
    older = tiny_config(rope_scaling={**{k: v for k, v in YARN.items() if k != "rope_type"}, "type": "yarn"})
    assert ModelConfig.from_dict(new) == ModelConfig.from_dict(both) == ModelConfig.from_dict(older) == old


def test_truncate_is_true_when_the_config_does_not_say() -> None:
    rope = {key: value for key, value in YARN.items() if key != "truncate"}
    assert ModelConfig.from_dict(tiny_config(rope_scaling=rope)).rope.truncate is True
    assert ModelConfig.from_dict(tiny_config(rope_scaling={**rope, "truncate": True})).rope.truncate is True


def test_layer_types_alternate_when_the_config_does_not_say() -> None:
    config = ModelConfig.from_dict(tiny_config(layer_types=None, num_hidden_layers=5))
    assert config.layer_types == (("sliding_attention", "full_attention") * 3)[:5]


def test_other_names_and_several_stop_ids_are_read() -> None:
    config = ModelConfig.from_dict(tiny_config(num_experts_per_tok=None, experts_per_token=2, eos_token_id=[1, 2]))
    assert (config.experts_per_token, config.eos_token_ids) == (2, (1, 2))
    assert ModelConfig.from_dict(tiny_config(num_local_experts=None, num_experts=8)).num_local_experts == 8
    assert ModelConfig.from_dict(tiny_config(eos_token_id=None)).eos_token_ids == ()


def test_keys_that_change_nothing_are_accepted() -> None:
    extra = dict.fromkeys(HARMLESS_KEYS - {"model_type"}, "anything") | {"pruned_heads": None}
    assert ModelConfig.from_dict(tiny_config() | extra) == ModelConfig.from_dict(tiny_config())


def rope(**changes: Any) -> dict[str, Any]:
    return {"rope_scaling": {key: value for key, value in (YARN | changes).items() if value is not None}}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "llama"}, r"model_type is 'llama'; expected 'gpt_oss'"),
    ({"model_type": None}, r"model_type is missing"),
    ({"hidden_size": None}, r"hidden_size is missing; expected a whole number of at least 1"),
    ({"hidden_size": "64"}, r"hidden_size is '64'"),
    ({"hidden_size": 64.0}, r"hidden_size is 64\.0"),
    ({"hidden_size": True}, r"hidden_size is True"),
    ({"vocab_size": 0}, r"vocab_size is 0; expected a whole number of at least 1"),
    ({"hidden_size": 80}, r"hidden_size is 80; expected a multiple of 32"),
    ({"intermediate_size": 33}, r"intermediate_size is 33; expected a multiple of 32"),
    ({"head_dim": 15}, r"head_dim is 15; expected an even number"),
    ({"num_key_value_heads": 3}, r"num_attention_heads is 8; expected a multiple of num_key_value_heads, 3"),
    (
        {"num_experts_per_tok": 9, "experts_per_token": 9},
        r"num_experts_per_tok is 9; expected at most num_local_experts, 8",
    ),
    ({"experts_per_token": 3}, r"experts_per_token is 3; expected 4, the same as num_experts_per_tok"),
    ({"rms_norm_eps": 0}, r"rms_norm_eps is 0; expected a number above 0"),
    ({"rms_norm_eps": float("nan")}, r"rms_norm_eps is nan"),
    ({"swiglu_limit": -7.0}, r"swiglu_limit is -7\.0"),
    ({"layer_types": ["full_attention"]}, r"layer_types is .*; expected a list of 4"),
    ({"layer_types": ["chunked_attention"] * 4}, r"layer_types is .*'sliding_attention' or 'full_attention'"),
    ({"eos_token_id": "end"}, r"eos_token_id is 'end'; expected a token id"),
    ({"eos_token_id": [1, -2]}, r"eos_token_id is \[1, -2\]"),
    ({"attention_bias": False}, r"attention_bias is False; expected True"),
    ({"hidden_act": "gelu"}, r"hidden_act is 'gelu'; expected 'silu'"),
    ({"tie_word_embeddings": True}, r"tie_word_embeddings is True; expected False"),
    ({"tie_word_embeddings": 0}, r"tie_word_embeddings is 0; expected False"),
    ({"quantization_config": None}, r"quantization_config is missing"),
    ({"quantization_config": {"quant_method": "awq"}}, r"quantization_config\.quant_method is 'awq'; expected 'mxfp4'"),
    (
        {"quantization_config": {"quant_method": "mxfp4", "bits": 8}},
        r"quantization_config\.bits is 8; expected no such key",
    ),
    ({"rope_scaling": None}, r"rope_parameters is missing"),
    ({"rope_scaling": "yarn"}, r"rope_scaling is 'yarn'; expected a JSON object"),
    ({"rope_theta": None}, r"rope_theta is missing"),
    ({"rope_theta": 0.5}, r"rope_theta is 0\.5; expected a number above 1"),
    ({"rope_parameters": YARN | {"factor": 8.0}}, r"rope_scaling is .*; expected the same values as rope_parameters"),
    (rope(rope_theta=10000), r"rope_theta is 150000; expected 10000, the same as inside rope_scaling"),
    (rope(rope_type="llama3"), r"rope_scaling\.rope_type is 'llama3'; expected 'yarn'"),
    (rope(rope_type=None), r"rope_scaling\.rope_type is missing"),
    (rope(rope_type=None, type="linear"), r"rope_scaling\.type is 'linear'"),
    (rope(factor=None), r"rope_scaling\.factor is missing"),
    (rope(factor=float("inf")), r"rope_scaling\.factor is inf"),
    (rope(truncate="no"), r"rope_scaling\.truncate is 'no'; expected true or false"),
    (rope(original_max_position_embeddings=None), r"rope_scaling\.original_max_position_embeddings is missing"),
    (rope(beta_fast=0.5), r"rope_scaling\.beta_fast is 0\.5; expected at least beta_slow, 1"),
    (rope(mscale=0.7), r"rope_scaling\.mscale is 0\.7; expected no such key"),
    ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor is 0\.5; expected no such key: it may change the model"),
    ({"attn_logit_softcapping": 50.0}, r"attn_logit_softcapping is 50\.0; expected no such key"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=lambda value: str(value)[:60])
def test_what_would_change_the_model_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(tiny_config(**changes)))
    with pytest.raises(ConfigError, match=message) as caught:
        ModelConfig.from_file(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not JSON"), ("[1]", "holds list; expected a JSON object"), ("\xff", "is not JSON")]
)
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_file(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json cannot be read \(No such file"):
        ModelConfig.from_file(tmp_path / "config.json")
