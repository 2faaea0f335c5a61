"""Everything in the demo checkpoint that is not a weight: vocabulary, chat template, and the two configs.

The forms are those of the public DiffusionGemma checkpoint, only smaller: one token per printable character.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models

CANVAS_LENGTH = 48  # the longest answer that fits one canvas is a 6x6 grid: 41 characters and an end of turn

SPECIAL_TOKENS = (
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "<|turn>",
    "<turn|>",
    "<|channel>",
    "<channel|>",
    "<|think|>",
    "<|tool_response>",
)
ROLE_WORDS = ("user", "model", "system", "thought")
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
VOCABULARY = {token: index for index, token in enumerate((*SPECIAL_TOKENS, *ROLE_WORDS, *CHARACTERS))}
EOS, END_OF_TURN = VOCABULARY["<eos>"], VOCABULARY["<turn|>"]

# What the chat template puts around a single user message, thinking off.
BEFORE_PROMPT = ("<bos>", "<|turn>", "user", "\n")
AFTER_PROMPT = ("<turn|>", "\n", "<|turn>", "model", "\n", "<|channel>", "thought", "\n", "<channel|>")

CHAT_TEMPLATE = """\
{#- Turns as DiffusionGemma writes them; without thinking, an empty thought channel is already in the prompt. -#}
{{- bos_token -}}
{%- set system = namespace(text='') -%}
{%- for message in messages if message['role'] in ['system', 'developer'] -%}
    {%- set system.text = system.text + ('\\n' if system.text else '') + message['content'] | trim -%}
{%- endfor -%}
{%- if enable_thinking or system.text -%}
    {{- '<|turn>system\\n' -}}
    {%- if enable_thinking -%}{{- '<|think|>\\n' -}}{%- endif -%}
    {{- system.text + '<turn|>\\n' -}}
{%- endif -%}
{%- for message in messages if message['role'] not in ['system', 'developer'] -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{- '<|turn>' + role + '\\n' + message['content'] | trim + '<turn|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|turn>model\\n' -}}
    {%- if not enable_thinking -%}{{- '<|channel>thought\\n<channel|>' -}}{%- endif -%}
{%- endif -%}
"""


def write_files(folder: Path, dtype: str = "float32") -> None:
    """Write all files but the weights; `dtype` is what config.json says the weights are stored in."""
    folder.mkdir(parents=True, exist_ok=True)
    make_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    for name, content in (
        ("config.json", model_config(dtype)),
        ("generation_config.json", generation_config()),
        ("tokenizer_config.json", tokenizer_config()),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")


def make_tokenizer() -> Tokenizer:
    """A tokenizer that cuts text into characters, except for the special tokens and the four role words."""
    tokenizer = Tokenizer(models.BPE(vocab=VOCABULARY, merges=[], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=False) for word in ROLE_WORDS])
    return tokenizer


def prompt_ids(prompt: str) -> list[int]:
    """The chat template's tokens for one user message, without rendering it: training makes millions."""
    return [VOCABULARY[token] for token in (*BEFORE_PROMPT, *prompt, *AFTER_PROMPT)]


def answer_ids(answer: str) -> list[int]:
    """An answer, its end of turn, and `<eos>` to the end of the last canvas."""
    ids = [VOCABULARY[character] for character in answer] + [END_OF_TURN]
    return ids + [EOS] * (-len(ids) % CANVAS_LENGTH)


def tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "additional_special_tokens": list(SPECIAL_TOKENS[4:]),
        "clean_up_tokenization_spaces": False,
        "model_max_length": model_config("float32")["text_config"]["max_position_embeddings"],
    }


def generation_config() -> dict[str, Any]:
    return {
        "bos_token_id": VOCABULARY["<bos>"],
        "confidence_threshold": 0.005,
        "eos_token_id": [EOS, END_OF_TURN],
        "max_denoising_steps": 48,
        "max_new_tokens": 4 * CANVAS_LENGTH,
        "pad_token_id": VOCABULARY["<pad>"],
        "return_dict_in_generate": True,
        "sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": 0.1},
        "stability_threshold": 1,
        "t_max": 0.8,
        "t_min": 0.4,
    }


def model_config(dtype: str) -> dict[str, Any]:
    """About 1.5 million parameters, with every structural part of the 26B model."""
    return {
        "architectures": ["DiffusionGemmaForBlockDiffusion"],
        "boi_token_id": len(VOCABULARY),  # images have no tokens here: these three are past the vocabulary
        "canvas_length": CANVAS_LENGTH,
        "dtype": dtype,
        "eoi_token_id": len(VOCABULARY) + 1,
        "image_token_id": len(VOCABULARY) + 2,
        "initializer_range": 0.02,
        "model_type": "diffusion_gemma",
        "text_config": {
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": VOCABULARY["<bos>"],
            "eos_token_id": EOS,
            "head_dim": 32,
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 128,
            "initializer_range": 0.02,
            "intermediate_size": 256,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "max_position_embeddings": 1024,
            "model_type": "diffusion_gemma_text",
            "moe_intermediate_size": 128,
            "num_attention_heads": 4,
            "num_experts": 4,
            "num_hidden_layers": 4,
            "num_key_value_heads": 2,
            "pad_token_id": VOCABULARY["<pad>"],
            "per_layer_config": {str(index): {"head_dim": 64, "num_key_value_heads": 1} for index in (1, 3)},
            "rms_norm_eps": 1e-06,
            "rope_parameters": {
                "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1e6, "rope_type": "proportional"},
                "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
            },
            "sliding_window": 64,
            "tie_word_embeddings": True,
            "top_k_experts": 2,
            "use_bidirectional_attention": "vision",
            "vocab_size": len(VOCABULARY),
        },
        "tie_word_embeddings": True,
        # transformers builds a vision tower in any case: the smallest there is, with no weights of it in the checkpoint
        "vision_config": {
            "default_output_length": 4,
            "global_head_dim": 8,
            "head_dim": 8,
            "hidden_size": 8,
            "intermediate_size": 16,
            "model_type": "gemma4_vision",
            "num_attention_heads": 1,
            "num_hidden_layers": 1,
            "num_key_value_heads": 1,
            "patch_size": 4,
            "pooling_kernel_size": 3,
            "position_embedding_size": 16,
        },
    }
