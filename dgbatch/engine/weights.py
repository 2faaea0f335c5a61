"""Checkpoint tensors to our parameters and back: the only file that knows both sets of names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dgbatch.engine.checkpoint import read_json
from dgbatch.engine.model.config import ModelConfig
from dgbatch.engine.model.transformer import Transformer
from dgbatch.errors import CheckpointError

Found = TypeVar("Found")

# ours -> the public name, for what exists once
RENAMES = {
    "embedding": "model.decoder.embed_tokens.weight",
    "final_norm": "model.decoder.norm.weight",
    "self_conditioning.norm": "model.decoder.self_conditioning.pre_norm.weight",
    "self_conditioning.mlp.gate": "model.decoder.self_conditioning.gate_proj.weight",
    "self_conditioning.mlp.up": "model.decoder.self_conditioning.up_proj.weight",
    "self_conditioning.mlp.down": "model.decoder.self_conditioning.down_proj.weight",
}
# ours -> the public name, for what every layer has
LAYER_RENAMES = {
    "before_attention": "input_layernorm.weight",
    "attention.q": "self_attn.q_proj.weight",
    "attention.k": "self_attn.k_proj.weight",
    "attention.v": "self_attn.v_proj.weight",
    "attention.o": "self_attn.o_proj.weight",
    "attention.q_norm": "self_attn.q_norm.weight",
    "attention.k_norm": "self_attn.k_norm.weight",
    "after_attention": "post_attention_layernorm.weight",
    "before_mlp": "pre_feedforward_layernorm.weight",
    "mlp.gate": "mlp.gate_proj.weight",
    "mlp.up": "mlp.up_proj.weight",
    "mlp.down": "mlp.down_proj.weight",
    "after_mlp": "post_feedforward_layernorm_1.weight",
    "router.proj": "router.proj.weight",
    "router.scale": "router.scale",
    "router.per_expert_scale": "router.per_expert_scale",
    "before_experts": "pre_feedforward_layernorm_2.weight",
    "experts.gate_up": "experts.gate_up_proj",
    "experts.down": "experts.down_proj",
    "after_experts": "post_feedforward_layernorm_2.weight",
    "after_both": "post_feedforward_layernorm.weight",
    "decoder_scalar": "layer_scalar",
}
ENCODER_SCALAR = "model.encoder.language_model.layers.{}.layer_scalar"
# dgbatch generates from text alone; `embed_vision.embedding` is a vestige of some conversions
VISION = ("model.encoder.vision_tower.", "model.encoder.embed_vision.")
# tied to the embedding; some tools write it out all the same
TIED = ("lm_head.weight", "model.encoder.language_model.embed_tokens.weight")


def public_name(ours: str) -> str:
    """The checkpoint's name of one of our parameters or buffers."""
    match = re.fullmatch(r"layers\.(\d+)\.(.+)", ours)
    if not match:
        return RENAMES[ours]
    index, rest = match.groups()
    if rest == "encoder_scalar":
        return ENCODER_SCALAR.format(index)
    return f"model.decoder.layers.{index}.{LAYER_RENAMES[rest]}"


def load_config(folder: Path) -> ModelConfig:
    """The model's sizes. Raises CheckpointError naming what is missing or unknown."""
    raw = read_json(folder, "config.json")
    if raw.get("model_type") != "diffusion_gemma":
        raise CheckpointError(
            f"{folder}/config.json: model_type is {raw.get('model_type')!r}; dgbatch runs 'diffusion_gemma' only."
        )
    try:
        return ModelConfig.from_dict(raw)
    except KeyError as error:
        raise CheckpointError(f"{folder}/config.json: no key {error}. Download the checkpoint again.") from error
    except ValueError as error:
        raise CheckpointError(f"{folder}/config.json: {error}.") from error
    except (TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder}/config.json: a value has the wrong type: {error}. Download the checkpoint again."
        ) from error


def load_transformer(folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Transformer:
    """A model with a checkpoint's weights, on `device`; None keeps the checkpoint's dtype.

    Reads tensor by tensor, so the peak is the model plus one tensor. Raises CheckpointError like empty_transformer.
    """
    model = empty_transformer(folder)
    ours = {public_name(name): name for name in model.state_dict()}
    loaded = {
        ours[name]: tensor.to(dtype) if dtype else tensor for name, tensor in _tensors(folder, device) if name in ours
    }
    model.load_state_dict(loaded, assign=True)
    return model.eval().requires_grad_(False)


def empty_transformer(folder: Path) -> Transformer:
    """The model of a checkpoint without its weights, once the headers of the weight files say that those fit.

    Raises CheckpointError that names each missing, unknown or wrong-shaped tensor, and each unreadable file.
    """
    config = load_config(folder)
    try:
        with torch.device("meta"):
            model = Transformer(config)
    except (TypeError, ValueError, RuntimeError, OverflowError, ArithmeticError) as error:
        raise CheckpointError(
            f"{folder}/config.json: no model has these sizes: {str(error).splitlines()[0]}. "
            "Download the checkpoint again."
        ) from error
    wanted = {public_name(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: shape for name, shape in _shapes(folder) if not name.startswith(VISION) and name not in TIED}
    wrong = [f"unknown tensor {name} {shape}" for name, shape in found.items() if name not in wanted]
    wrong += [
        f"{name} is {found[name]}, config.json asks for {shape}"
        for name, shape in wanted.items()
        if found.get(name, shape) != shape
    ]
    wrong += [f"missing tensor {name} {shape}" for name, shape in wanted.items() if name not in found]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise CheckpointError(
            f"{folder}: the weights do not fit config.json: {'; '.join(wrong[:5])}{more}. "
            "Download the checkpoint again, or mend its config.json."
        )
    return model


def save_checkpoint(folder: Path, model: Transformer, config: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Write config.json and model.safetensors under the public names, weights rounded to `dtype`."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {public_name(name): tensor.to(dtype).contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _shapes(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Of the files' headers alone; a file that is shorter than its header says is unreadable."""
    return _of_each(folder, "cpu", lambda file, name: tuple(file.get_slice(name).get_shape()))


def _tensors(folder: Path, device: torch.device | str) -> Iterator[tuple[str, Tensor]]:
    return _of_each(folder, device, lambda file, name: file.get_tensor(name))


def _of_each(
    folder: Path, device: torch.device | str, read: Callable[[Any, str], Found]
) -> Iterator[tuple[str, Found]]:
    """The name of each tensor, and what `read` finds under it."""
    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                for name in file.keys():  # noqa: SIM118 - a safetensors handle is not iterable
                    yield name, read(file, name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{path}: not a readable safetensors file: {error}. The download was cut short or the file is "
                "damaged; download it again."
            ) from error


def _weight_files(folder: Path) -> list[Path]:
    index = read_json(folder, "model.safetensors.index.json", required=False)
    if not index:
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise CheckpointError(f"{folder}: no *.safetensors in it. Give a folder that holds the weights.")
        return files
    names = sorted(set(index.get("weight_map", {}).values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} of {len(names)} weight files are missing: {', '.join(missing[:5])}. "
            "Download the checkpoint again."
        )
    return [folder / name for name in names]
