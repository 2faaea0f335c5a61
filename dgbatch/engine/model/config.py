"""What a checkpoint's config.json says about the text model, in one closed record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SOFTCAP = 30.0  # transformers keeps it as a class constant, so saved configs usually lack the key


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """One decoder layer; sliding and full layers differ in heads, head size, RoPE and where V comes from."""

    sliding: bool
    kv_heads: int
    head_dim: int
    rope_theta: float
    rotated_pairs: int  # of head_dim / 2; the rest pass unrotated


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The sizes of one DiffusionGemma text model."""

    vocab_size: int
    hidden: int
    heads: int
    layers: tuple[LayerConfig, ...]
    sliding_window: int  # a causal row sees itself and window - 1 before it; a canvas the last window - 1
    intermediate: int  # dense MLP and self-conditioning MLP
    experts: int
    chosen_experts: int
    moe_intermediate: int
    canvas_length: int
    max_positions: int
    norm_eps: float = 1e-6
    softcap: float = SOFTCAP
    pad_id: int = 0

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> ModelConfig:
        """Read a config.json: `global_*` keys and `per_layer_config` (transformers 5.2x and later) both work.

        Raises KeyError naming a missing key and ValueError naming a value this engine does not know.
        """
        text = config.get("text_config", config)
        if text.get("hidden_activation", "gelu_pytorch_tanh") != "gelu_pytorch_tanh":
            raise ValueError(f"hidden_activation is {text['hidden_activation']!r}; only gelu_pytorch_tanh is known")
        if text.get("attention_bias"):
            raise ValueError("attention_bias is true; DiffusionGemma has no biases")
        if text.get("use_bidirectional_attention") == "all":
            raise ValueError("use_bidirectional_attention is 'all'; only 'vision' and null are known")
        if config.get("tie_word_embeddings") is False:
            raise ValueError("tie_word_embeddings is false; only tied weights are known")
        layers = tuple(_layer(text, index, kind) for index, kind in enumerate(text["layer_types"]))
        if len(layers) != text["num_hidden_layers"]:
            raise ValueError(f"num_hidden_layers is {text['num_hidden_layers']} but layer_types lists {len(layers)}")
        return cls(
            vocab_size=text["vocab_size"],
            hidden=text["hidden_size"],
            heads=text["num_attention_heads"],
            layers=layers,
            sliding_window=text["sliding_window"],
            intermediate=text["intermediate_size"],
            experts=text["num_experts"],
            chosen_experts=text["top_k_experts"],
            moe_intermediate=text["moe_intermediate_size"],
            canvas_length=config["canvas_length"],
            max_positions=text["max_position_embeddings"],
            norm_eps=text.get("rms_norm_eps", 1e-6),
            softcap=text.get("final_logit_softcapping") or SOFTCAP,
            pad_id=text.get("pad_token_id") or 0,
        )


def _layer(text: Mapping[str, Any], index: int, kind: str) -> LayerConfig:
    if kind not in ("sliding_attention", "full_attention"):
        raise ValueError(f"layer_types[{index}] is {kind!r}; known are sliding_attention and full_attention")
    full = kind == "full_attention"
    own = (text.get("per_layer_config") or {}).get(str(index), {})
    head_dim, kv_heads = text["head_dim"], text["num_key_value_heads"]
    if full and text.get("per_layer_config") is None:
        head_dim = text.get("global_head_dim") or head_dim
        kv_heads = text.get("num_global_key_value_heads") or kv_heads
    head_dim = own.get("head_dim", head_dim)
    rope = text["rope_parameters"][kind]
    known = "proportional" if full else "default"
    if rope.get("rope_type", known) != known or rope.get("factor", 1.0) != 1.0:
        raise ValueError(f"rope_parameters of {kind} are {dict(rope)}; only rope_type {known!r} is known")
    share = rope.get("partial_rotary_factor", 1.0) if full else 1.0
    return LayerConfig(
        sliding=not full,
        kv_heads=own.get("num_key_value_heads", kv_heads),
        head_dim=head_dim,
        rope_theta=rope["rope_theta"],
        rotated_pairs=int(share * head_dim // 2),
    )
