"""Tensor names and shapes: the published 26B checkpoint, and every way a folder of weights can be wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dgbatch.engine import weights
from dgbatch.engine.weights import VISION, load_config, load_transformer, public_name, save_checkpoint
from dgbatch.errors import CheckpointError
from tests.engine import tiny

FULL_LAYERS = (5, 11, 17, 23, 29)
REAL_CONFIG: dict[str, Any] = {
    "model_type": "diffusion_gemma",
    "architectures": ["DiffusionGemmaForBlockDiffusion"],
    "canvas_length": 256,
    "eos_token_id": [1, 106],
    "tie_word_embeddings": True,
    "text_config": {
        "model_type": "diffusion_gemma_text",
        "vocab_size": 262144,
        "hidden_size": 2816,
        "num_hidden_layers": 30,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 5,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "num_global_key_value_heads": 2,
        "head_dim": 256,
        "global_head_dim": 512,
        "sliding_window": 1024,
        "use_bidirectional_attention": "vision",
        "intermediate_size": 2112,
        "num_experts": 128,
        "top_k_experts": 8,
        "moe_intermediate_size": 704,
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "final_logit_softcapping": 30.0,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
        },
        "max_position_embeddings": 262144,
        "pad_token_id": 0,
    },
}


def published_text() -> dict[str, tuple[int, ...]]:
    """The text tensors of google/diffusiongemma-26B-A4B-it: section 6 of the reference, written out."""
    decoder = "model.decoder."
    conditioning = decoder + "self_conditioning."
    table: dict[str, tuple[int, ...]] = {
        decoder + "embed_tokens.weight": (262144, 2816),
        decoder + "norm.weight": (2816,),
        conditioning + "pre_norm.weight": (2816,),
        conditioning + "gate_proj.weight": (2112, 2816),
        conditioning + "up_proj.weight": (2112, 2816),
        conditioning + "down_proj.weight": (2816, 2112),
    }
    for n in range(30):
        full = n in FULL_LAYERS
        q, kv, head = (8192, 1024, 512) if full else (4096, 2048, 256)
        layer = {
            "self_attn.q_proj.weight": (q, 2816),
            "self_attn.k_proj.weight": (kv, 2816),
            "self_attn.o_proj.weight": (2816, q),
            "self_attn.q_norm.weight": (head,),
            "self_attn.k_norm.weight": (head,),
            "mlp.gate_proj.weight": (2112, 2816),
            "mlp.up_proj.weight": (2112, 2816),
            "mlp.down_proj.weight": (2816, 2112),
            "router.proj.weight": (128, 2816),
            "router.scale": (2816,),
            "router.per_expert_scale": (128,),
            "experts.gate_up_proj": (128, 1408, 2816),
            "experts.down_proj": (128, 2816, 704),
            "layer_scalar": (1,),
        }
        if not full:
            layer["self_attn.v_proj.weight"] = (kv, 2816)
        for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            layer[norm + "_layernorm.weight"] = (2816,)
        for norm in ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "pre_feedforward_layernorm_2"):
            layer[norm + ".weight"] = (2816,)
        table |= {f"{decoder}layers.{n}.{name}": shape for name, shape in layer.items()}
        table[f"model.encoder.language_model.layers.{n}.layer_scalar"] = (1,)
    return table


def published_vision() -> dict[str, tuple[int, ...]]:
    tower = "model.encoder.vision_tower."
    table: dict[str, tuple[int, ...]] = {
        tower + "patch_embedder.input_proj.weight": (1152, 768),
        tower + "patch_embedder.position_embedding_table": (2, 10240, 1152),
        tower + "std_bias": (1152,),
        tower + "std_scale": (1152,),
        "model.encoder.embed_vision.embedding_projection.weight": (2816, 1152),
    }
    for m in range(27):
        layer: dict[str, tuple[int, ...]] = {f"self_attn.{p}_proj.linear.weight": (1152, 1152) for p in "qkvo"}
        layer |= {f"self_attn.{p}_norm.weight": (72,) for p in "qk"}
        layer |= {f"mlp.{p}_proj.linear.weight": (4304, 1152) for p in ("gate", "up")}
        layer |= {"mlp.down_proj.linear.weight": (1152, 4304)}
        for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            layer[norm + "_layernorm.weight"] = (1152,)
        table |= {f"{tower}encoder.layers.{m}.{name}": shape for name, shape in layer.items()}
    return table


@pytest.fixture(scope="module")
def real_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    (folder / "config.json").write_text(json.dumps(REAL_CONFIG))
    return folder


@pytest.fixture
def holds(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, tuple[int, ...]]], None]:
    """Pretend that the weight files hold these tensors."""

    def pretend(table: dict[str, tuple[int, ...]]) -> None:
        def tensors(folder: Path, device: object) -> Iterator[tuple[str, Tensor]]:
            for name, shape in table.items():
                yield name, torch.empty(shape, device="meta", dtype=torch.bfloat16)

        monkeypatch.setattr(weights, "_tensors", tensors)
        monkeypatch.setattr(weights, "_shapes", lambda folder: iter(table.items()))

    return pretend


def test_the_published_table_has_1047_names() -> None:
    assert len(published_text()) == 691
    assert len(published_text() | published_vision()) == 1047


def test_every_published_text_tensor_has_a_place_and_every_place_a_tensor(
    real_folder: Path, holds: Callable[..., None]
) -> None:
    """All 1,047 through the loader itself, shapes included, on the meta device."""
    holds(published_text() | published_vision())
    model = load_transformer(real_folder, "meta")
    ours = {public_name(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert ours == published_text()


def test_every_vision_tensor_is_skipped_by_name() -> None:
    assert all(name.startswith(VISION) for name in published_vision())
    assert not any(name.startswith(VISION) for name in published_text())


def test_the_text_model_has_the_published_number_of_parameters(real_folder: Path, holds: Callable[..., None]) -> None:
    holds(published_text())
    model = load_transformer(real_folder, "meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_250_986_752
    assert model.embedding.dtype == torch.bfloat16


def test_real_full_layers_rotate_64_pairs_and_the_others_128(real_folder: Path) -> None:
    layers = load_config(real_folder).layers
    assert [index for index, layer in enumerate(layers) if not layer.sliding] == list(FULL_LAYERS)
    assert {(layer.sliding, layer.rotated_pairs, layer.head_dim, layer.kv_heads) for layer in layers} == {
        (True, 128, 256, 8),
        (False, 64, 512, 2),
    }


def test_global_keys_and_per_layer_config_of_the_real_model_say_the_same(real_folder: Path, tmp_path: Path) -> None:
    newer = json.loads(json.dumps(REAL_CONFIG))
    del newer["text_config"]["num_global_key_value_heads"], newer["text_config"]["global_head_dim"]
    newer["text_config"]["per_layer_config"] = {
        str(n): {"head_dim": 512, "num_key_value_heads": 2} for n in FULL_LAYERS
    }
    (tmp_path / "config.json").write_text(json.dumps(newer))
    assert load_config(tmp_path) == load_config(real_folder)


def test_a_shape_that_is_not_the_real_models_is_named(real_folder: Path, holds: Callable[..., None]) -> None:
    name = "model.decoder.layers.5.self_attn.q_proj.weight"
    holds(published_text() | {name: (4096, 2816)})
    with pytest.raises(CheckpointError, match=rf"{name} is \(4096, 2816\), config.json asks for \(8192, 2816\)"):
        load_transformer(real_folder, "meta")


def test_a_value_projection_on_a_full_layer_is_unknown(real_folder: Path, holds: Callable[..., None]) -> None:
    name = "model.decoder.layers.29.self_attn.v_proj.weight"
    holds(published_text() | {name: (1024, 2816)})
    with pytest.raises(CheckpointError, match=f"unknown tensor {name}"):
        load_transformer(real_folder, "meta")


# Tiny checkpoints on disk


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def cut_in_shards(folder: Path, count: int = 3) -> list[str]:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"model-{index + 1:05d}-of-{count:05d}.safetensors" for index in range(count)]
    where = {name: names[index % count] for index, name in enumerate(sorted(tensors))}
    for file in names:
        save_file({name: tensors[name] for name in where if where[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return names


def test_a_saved_model_loads_with_the_same_weights(tmp_path: Path) -> None:
    model = tiny.tiny_model()
    save_checkpoint(tmp_path / "new" / "folder", model, tiny.config_dict(), torch.float32)
    loaded = load_transformer(tmp_path / "new" / "folder")
    assert loaded.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_modes_keep_their_own_layer_scalars(checkpoint: Path) -> None:
    layer = load_transformer(checkpoint).layers[0]
    assert layer.encoder_scalar.item() == pytest.approx(0.9)
    assert layer.decoder_scalar.item() != layer.encoder_scalar.item()


def test_weights_are_rounded_to_the_dtype_asked_for(checkpoint: Path, tmp_path: Path) -> None:
    for tensor in load_transformer(checkpoint, dtype=torch.bfloat16).state_dict().values():
        assert tensor.dtype == torch.bfloat16
    save_checkpoint(tmp_path, tiny.tiny_model(), tiny.config_dict(), torch.bfloat16)
    assert load_transformer(tmp_path).embedding.dtype == torch.bfloat16
    assert load_transformer(tmp_path, dtype=torch.float32).embedding.dtype == torch.float32


def test_sharded_weights_with_an_index_load_like_a_single_file(folder: Path, checkpoint: Path) -> None:
    cut_in_shards(folder)
    expected = load_transformer(checkpoint).state_dict()
    for name, tensor in load_transformer(folder).state_dict().items():
        assert torch.equal(tensor, expected[name])


def test_a_missing_shard_is_named(folder: Path) -> None:
    missing = cut_in_shards(folder)[1]
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=f"1 of 3 weight files are missing: {missing}"):
        load_transformer(folder)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    name = "model.decoder.layers.1.experts.down_proj"
    rewrite(folder, lambda tensors: tensors.pop(name))
    with pytest.raises(CheckpointError, match=rf"missing tensor {name} \(4, 32, 12\)"):
        load_transformer(folder)


def test_a_missing_layer_scalar_is_named_although_it_is_a_buffer(folder: Path) -> None:
    name = "model.encoder.language_model.layers.1.layer_scalar"
    rewrite(folder, lambda tensors: tensors.pop(name))
    with pytest.raises(CheckpointError, match=f"missing tensor {name}"):
        load_transformer(folder)


def test_an_extra_tensor_is_named(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"model.decoder.layers.2.layer_scalar": torch.ones(1)}))
    with pytest.raises(CheckpointError, match=r"unknown tensor model.decoder.layers.2.layer_scalar \(1,\)"):
        load_transformer(folder)


def test_a_wrong_shaped_tensor_is_named_with_both_shapes(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"model.decoder.norm.weight": torch.ones(31)}))
    with pytest.raises(
        CheckpointError, match=r"model.decoder.norm.weight is \(31,\), config.json asks for \(32,\)"
    ) as caught:
        load_transformer(folder)
    assert "missing" not in str(caught.value)


def test_a_transposed_tensor_is_wrong_although_it_has_as_many_numbers(folder: Path) -> None:
    name = "model.decoder.layers.0.mlp.down_proj.weight"
    rewrite(folder, lambda tensors: tensors.update({name: tensors[name].T.contiguous()}))
    with pytest.raises(CheckpointError, match=rf"{name} is \(24, 32\), config.json asks for \(32, 24\)"):
        load_transformer(folder)


def test_many_wrong_tensors_are_counted_and_the_first_five_named(folder: Path) -> None:
    rewrite(folder, lambda tensors: [tensors.pop(name) for name in sorted(tensors)[:12]])
    with pytest.raises(CheckpointError, match="and 7 more") as caught:
        load_transformer(folder)
    assert str(caught.value).count("missing tensor") == 5


def test_tied_and_vision_tensors_are_passed_over(folder: Path) -> None:
    extra = (
        "lm_head.weight",
        "model.encoder.language_model.embed_tokens.weight",
        "model.encoder.vision_tower.std_bias",
        "model.encoder.embed_vision.embedding.weight",
    )
    before = load_transformer(folder).state_dict()
    rewrite(folder, lambda tensors: tensors.update({name: torch.ones(3) for name in extra}))
    after = load_transformer(folder).state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("damage", ["truncated", "header", "empty", "text"])
def test_an_unreadable_weight_file_is_named(folder: Path, damage: str) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(
        {
            "truncated": whole[: len(whole) // 2],
            "header": b"\xff" * 8 + whole[8:],
            "empty": b"",
            "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n",
        }[damage]
    )
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a readable safetensors file") as caught:
        load_transformer(folder)
    assert "download it again" in str(caught.value)


def test_weights_are_checked_by_their_headers_before_any_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite(folder, lambda tensors: tensors.pop("model.decoder.norm.weight"))
    monkeypatch.setattr(weights, "_tensors", lambda *arguments: pytest.fail("weights were read"))
    with pytest.raises(CheckpointError, match=r"missing tensor model\.decoder\.norm\.weight"):
        load_transformer(folder)


def test_a_folder_without_weights_says_so(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no \*\.safetensors in it"):
        load_transformer(folder)


def test_another_models_folder_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma3"}))
    with pytest.raises(CheckpointError, match="model_type is 'gemma3'"):
        load_transformer(folder)


def edit_config(folder: Path, **text: Any) -> None:
    raw = json.loads((folder / "config.json").read_text())
    raw["text_config"].update(text)
    (folder / "config.json").write_text(json.dumps(raw))


def test_a_config_without_a_needed_key_names_it(folder: Path) -> None:
    raw = json.loads((folder / "config.json").read_text())
    del raw["text_config"]["hidden_size"]
    (folder / "config.json").write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=r"config\.json: no key 'hidden_size'"):
        load_config(folder)


def test_a_config_with_a_strange_value_names_it(folder: Path) -> None:
    edit_config(folder, hidden_activation="relu")
    with pytest.raises(CheckpointError, match=r"config\.json: hidden_activation is 'relu'"):
        load_config(folder)


@pytest.mark.parametrize("text", [{"layer_types": None}, {"rope_parameters": None}, {"per_layer_config": {"1": 3}}])
def test_a_config_with_a_value_of_the_wrong_type_is_no_traceback(folder: Path, text: dict[str, Any]) -> None:
    edit_config(folder, **text)
    with pytest.raises(CheckpointError, match=r"config\.json: a value has the wrong type"):
        load_config(folder)
