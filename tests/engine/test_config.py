"""What config.json says: both ways of writing the full layers, and what this engine refuses."""

from __future__ import annotations

from typing import Any

import pytest

from dgbatch.engine.model.config import SOFTCAP, LayerConfig, ModelConfig
from tests.engine import tiny


def changed(**text: Any) -> dict[str, Any]:
    """A config.json with these text_config values; None takes a key out."""
    raw = tiny.config_dict()
    raw["text_config"].update(text)
    raw["text_config"] = {key: value for key, value in raw["text_config"].items() if value is not None}
    return raw


def test_sizes_of_both_kinds_of_layer_are_read() -> None:
    config = ModelConfig.from_dict(tiny.config_dict())
    assert config.layers == (
        LayerConfig(sliding=True, kv_heads=2, head_dim=8, rope_theta=1e4, rotated_pairs=4),
        LayerConfig(sliding=False, kv_heads=1, head_dim=16, rope_theta=1e6, rotated_pairs=2),
    )
    assert (config.vocab_size, config.hidden, config.heads) == (len(tiny.VOCABULARY), 32, 4)
    assert (config.experts, config.chosen_experts, config.moe_intermediate, config.intermediate) == (4, 2, 12, 24)
    assert (config.canvas_length, config.max_positions, config.sliding_window) == (8, 96, 12)
    assert (config.norm_eps, config.softcap, config.pad_id) == (1e-6, 30.0, 0)


def test_global_keys_and_per_layer_config_say_the_same() -> None:
    older = changed(per_layer_config=None, global_head_dim=16, num_global_key_value_heads=1)
    assert ModelConfig.from_dict(older) == ModelConfig.from_dict(tiny.config_dict())


def test_without_either_a_full_layer_has_the_sizes_of_a_sliding_one() -> None:
    full = ModelConfig.from_dict(changed(per_layer_config=None)).layers[1]
    assert (full.kv_heads, full.head_dim, full.rotated_pairs) == (2, 8, 1)


def test_per_layer_config_wins_over_global_keys_and_may_name_one_size_only() -> None:
    raw = changed(per_layer_config={"1": {"head_dim": 24}}, global_head_dim=16, num_global_key_value_heads=1)
    full = ModelConfig.from_dict(raw).layers[1]
    assert (full.kv_heads, full.head_dim) == (2, 24)


def test_a_text_config_may_stand_alone() -> None:
    raw = tiny.config_dict()
    flat = raw["text_config"] | {"canvas_length": 8}
    assert ModelConfig.from_dict(flat) == ModelConfig.from_dict(raw)


@pytest.mark.parametrize(("written", "softcap"), [(None, SOFTCAP), (30.0, 30.0), (50.0, 50.0)])
def test_softcap_is_30_where_the_key_is_left_out_and_honoured_where_it_is_not(
    written: float | None, softcap: float
) -> None:
    assert ModelConfig.from_dict(changed(final_logit_softcapping=written)).softcap == softcap


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ({"hidden_activation": "silu"}, "silu"),
        ({"attention_bias": True}, "attention_bias"),
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention"),
        ({"layer_types": ["sliding_attention", "linear_attention"]}, r"layer_types\[1\] is 'linear_attention'"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3 but layer_types lists 2"),
        (
            {
                "rope_parameters": {
                    "sliding_attention": {"rope_type": "yarn", "rope_theta": 1e4},
                    "full_attention": {"rope_theta": 1e6},
                }
            },
            "sliding_attention.*yarn",
        ),
        (
            {
                "rope_parameters": {
                    "sliding_attention": {"rope_theta": 1e4},
                    "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "factor": 8.0},
                }
            },
            "full_attention.*factor",
        ),
    ],
)
def test_what_the_engine_would_compute_wrongly_is_refused_by_name(text: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ModelConfig.from_dict(changed(**text))


def test_untied_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="tie_word_embeddings"):
        ModelConfig.from_dict(tiny.config_dict() | {"tie_word_embeddings": False})


@pytest.mark.parametrize("key", ["hidden_size", "layer_types", "rope_parameters", "top_k_experts", "sliding_window"])
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(KeyError, match=key):
        ModelConfig.from_dict(changed(**{key: None}))
