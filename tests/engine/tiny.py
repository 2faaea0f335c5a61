"""A DiffusionGemma small enough for a test to build: random weights, one token per character."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, decoders, models, processors
from tokenizers import Tokenizer as TokenizersTokenizer
from torch import Tensor

from dgbatch.engine.engine import Engine
from dgbatch.engine.model.config import ModelConfig
from dgbatch.engine.model.transformer import Transformer
from dgbatch.engine.scheduler import Scheduler
from dgbatch.engine.sequence import Sequence, chunks_of
from dgbatch.engine.tokenizer import Tokenizer
from dgbatch.engine.weights import save_checkpoint
from dgbatch.records import Completion, EngineConfig, Generation, Prompt, Settings

SPECIAL = ("<pad>", "<eos>", "<bos>", "<|think|>", "<|channel>", "<channel|>", "<|turn>", "<turn|>")
CHARACTERS = "\n 0123456789abcdefghijklmnopqrstuvwxyz?{}<>é"
VOCABULARY = {token: index for index, token in enumerate((*SPECIAL, *CHARACTERS))}
EOS, CHANNEL_START, CHANNEL_END, TURN_END = (VOCABULARY[t] for t in ("<eos>", "<|channel>", "<channel|>", "<turn|>"))
CANVAS = 8

# The form of section 5 of the reference: thinking off means an empty thought channel already in the prompt.
TEMPLATE = """\
{{ bos_token }}
{%- if enable_thinking or messages[0]['role'] == 'system' %}
<|turn>system
{% if enable_thinking %}
<|think|>
{% endif %}
{% if messages[0]['role'] == 'system' %}
{{- messages[0]['content'] | trim -}}
{% endif %}
<turn|>
{% endif %}
{% for message in messages if message['role'] != 'system' %}
{% if message['role'] not in ['user', 'assistant'] %}
{{ raise_exception('no role ' + message['role']) }}
{% endif %}
<|turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}
{{ message['content'] | trim }}<turn|>
{% endfor %}
<|turn>model
{% if not enable_thinking %}
<|channel>thought
<channel|>
{%- endif %}
"""
SETTINGS = Settings(
    max_new_tokens=16,
    max_denoising_steps=6,
    entropy_bound=0.1,
    temperature_start=0.8,
    temperature_end=0.4,
    confidence=0.005,
    stability=1,
)


def config_dict(**text: Any) -> dict[str, Any]:
    """A config.json: one sliding and one full layer, a window shorter than the prompts, `text` over the defaults."""
    return {
        "model_type": "diffusion_gemma",
        "canvas_length": CANVAS,
        "eos_token_id": EOS,
        "tie_word_embeddings": True,
        "text_config": {
            "vocab_size": len(VOCABULARY),
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "layer_types": ["sliding_attention", "full_attention"],
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "per_layer_config": {"1": {"head_dim": 16, "num_key_value_heads": 1}},
            "sliding_window": 12,
            "intermediate_size": 24,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 12,
            "max_position_embeddings": 96,
            "rms_norm_eps": 1e-6,
            "pad_token_id": 0,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
            },
        }
        | text,
    }


def random_model(config: ModelConfig, seed: int = 0) -> Transformer:
    """Weights that make a canvas depend on its noise and on its prompt; nothing at one or zero."""
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(config)
    model.reset_parameters(generator)
    with torch.no_grad():
        model.embedding.normal_(0.0, 0.5, generator=generator)
        for name, tensor in model.state_dict().items():
            if tensor.dim() == 1:
                tensor.normal_(1.0, 0.1, generator=generator)
            if name.endswith("encoder_scalar"):
                tensor.fill_(0.9)
    return model.eval().requires_grad_(False)


def tiny_model(**text: Any) -> Transformer:
    return random_model(ModelConfig.from_dict(config_dict(**text)))


def write_tokenizer(folder: Path, template: str = TEMPLATE) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = TokenizersTokenizer(models.BPE(vocab=VOCABULARY, merges=[], unk_token="<pad>"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    # As Gemma's does: plain encoding puts a <bos> in front. The chat template writes its own.
    tokenizer.post_processor = processors.TemplateProcessing(
        "<bos> $A", special_tokens=[("<bos>", VOCABULARY["<bos>"])]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    record = {
        "bos_token": {"__type": "AddedToken", "content": "<bos>", "special": True},
        "eos_token": "<eos>",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(record))


def write_checkpoint(folder: Path, **text: Any) -> Path:
    """A whole checkpoint folder in the public layout."""
    save_checkpoint(folder, tiny_model(**text), config_dict(**text), torch.float32)
    write_tokenizer(folder)
    generation = {
        "max_new_tokens": 16,
        "max_denoising_steps": 6,
        "sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": 0.1},
        "t_max": 0.8,
        "t_min": 0.4,
        "confidence_threshold": 0.005,
        "stability_threshold": 1,
        "eos_token_id": [EOS, TURN_END],
    }
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def make_engine(tokenizer: Tokenizer, model: Transformer, end_ids: tuple[int, ...] = (), **config: Any) -> Engine:
    """Without end ids every completion runs to its token limit: a random model ends turns at random."""
    return Engine(model, tokenizer, EngineConfig(**config), SETTINGS, list(end_ids))


class Wordless:
    """In a tokenizer's place where token ids go in and nothing is decoded."""

    def never_emitted(self, end_ids: Collection[int]) -> list[int]:
        return []


def wordless(
    model: Transformer, own: Settings = SETTINGS, end_ids: tuple[int, ...] = (), canvases: int = 4, **config: Any
) -> Engine:
    return Engine(model, Wordless(), EngineConfig(canvases, **config), own, list(end_ids))  # type: ignore[arg-type]


def fly(engine: Engine, *texts: list[int], fold: bool = True, first: int = 0) -> Scheduler:
    """Texts taken into flight as prompts `first` and on, noise on their canvases; no pass has run yet."""
    length = engine.model.config.canvas_length
    scheduler = Scheduler(engine.pages, engine.in_flight, length, engine.config.prefill_tiles, fold)
    for number, ids in enumerate(texts, first):
        scheduler.waiting.append(Sequence(prompt(number), engine.defaults, ids, engine.end_ids, chunks_of(ids, length)))
    engine.canvases.lay(scheduler.admit())
    assert not scheduler.waiting
    return scheduler


def encode(engine: Engine, scheduler: Scheduler) -> None:
    """All that waits to be encoded, pass by pass, and no canvas."""
    while any(one.pending for one in scheduler.flight):
        engine.passes.run([tile for tile in scheduler.plan() if tile.causal])


def kept(engine: Engine, sequence: Sequence, layer: int) -> Tensor:
    """What a row after a sequence's text sees of it, keys before values: (tokens, 2, kv_heads, head_dim)."""
    assert sequence.lease
    view = engine.pages.views(sequence.lease)[engine.model.config.layers[layer].sliding]
    return torch.cat(engine.kv.read(layer, view), 2).permute(2, 0, 1, 3)


def prompt(number: int, text: str | None = None, **generation: Any) -> Prompt:
    """A prompt of its own length and noise."""
    content = "abc " * (number % 4) + str(number) if text is None else text
    return Prompt(
        id=f"row-{number}",
        sample=0,
        messages=({"role": "user", "content": content},),
        noise_key=(number * 0x9E3779B97F4A7C15 + 1) % 2**64,
        generation=Generation(**generation),
    )


def by_id(results: Any) -> dict[str, Completion]:
    """Completions by id; each id once."""
    results = list(results)
    named = {result.id: result for result in results}
    assert len(named) == len(results)
    return named


def settings(**changes: Any) -> Settings:
    return replace(SETTINGS, **changes)
