"""transformers' own DiffusionGemma over our tensors: the same step, as `generate` runs it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dgbatch.bench.random_26b.contender import COMPILED, EAGER, Passes
from dgbatch.bench.random_26b.model import prefix_of
from dgbatch.engine.model.config import LayerConfig, ModelConfig
from dgbatch.engine.model.transformer import Transformer
from dgbatch.engine.weights import TIED, public_name
from dgbatch.errors import BenchError

EXPERTS = "grouped_mm"  # their fastest on a GPU: the others loop over experts or copy each token's experts
STEPS = 48  # of their schedule; no step is the last one here
# Theirs insists on numbers above zero: no random canvas is ever so sure of itself.
NEVER = {"stability_threshold": 1000, "confidence_threshold": 1e-30}
VISION = {
    "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
    "num_key_value_heads": 1, "head_dim": 8, "global_head_dim": 8, "patch_size": 4, "position_embedding_size": 8,
    "default_output_length": 4, "pooling_kernel_size": 2,
}  # fmt: skip


def their_model(ours: Transformer) -> Any:
    """DiffusionGemmaForBlockDiffusion whose parameters are our tensors: no weight is there twice."""
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise BenchError(f"transformers cannot be imported: {error}") from error
    transformers.logging.set_verbosity_error()
    config = their_config(ours.config)
    with torch.device("meta"):
        model = transformers.DiffusionGemmaForBlockDiffusion(config)
    tensors = {public_name(name): tensor for name, tensor in ours.state_dict(keep_vars=True).items()}
    embedding = tensors["model.decoder.embed_tokens.weight"]
    for name, tensor in tensors.items():
        hold(model, name, tensor)
        if name.startswith("model.decoder.") and "layer_scalar" not in name:
            twin = name.replace("model.decoder.", "model.encoder.language_model.")
            if "self_conditioning" not in name:
                hold(model, twin, tensor)
    for name in TIED:
        hold(model, name, embedding)
    device = embedding.device
    for part in (model.model.decoder, model.model.encoder.language_model):
        part.rotary_emb = type(part.rotary_emb)(config.text_config).to(device)  # tables that no checkpoint holds
        part.embed_tokens.embed_scale = torch.tensor(ours.config.hidden**0.5, device=device)
    for vision in ("vision_tower", "embed_vision"):  # text never gets there
        setattr(model.model.encoder, vision, None)
    missing = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    if missing:
        raise BenchError(f"transformers {transformers.__version__} has tensors that we do not know: {missing[:3]}")
    return model.eval()


def hold(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Put our tensor where theirs was, of the same shape."""
    path, _, last = name.rpartition(".")
    module = model.get_submodule(path)
    theirs = getattr(module, last)
    if theirs.shape != tensor.shape:
        raise BenchError(f"transformers has {name} as {tuple(theirs.shape)}, we as {tuple(tensor.shape)}")
    if last in module._parameters:
        tensor = nn.Parameter(tensor.detach(), requires_grad=False)
    setattr(module, last, tensor)


def their_config(ours: ModelConfig) -> Any:
    import transformers

    sliding, full = (next(one for one in ours.layers if one.sliding == kind) for kind in (True, False))
    text = transformers.DiffusionGemmaTextConfig(
        vocab_size=ours.vocab_size,
        hidden_size=ours.hidden,
        intermediate_size=ours.intermediate,
        num_hidden_layers=len(ours.layers),
        layer_types=["sliding_attention" if one.sliding else "full_attention" for one in ours.layers],
        num_attention_heads=ours.heads,
        num_key_value_heads=sliding.kv_heads,
        head_dim=sliding.head_dim,
        num_global_key_value_heads=full.kv_heads,
        global_head_dim=full.head_dim,
        num_experts=ours.experts,
        top_k_experts=ours.chosen_experts,
        moe_intermediate_size=ours.moe_intermediate,
        sliding_window=ours.sliding_window,
        max_position_embeddings=ours.max_positions,
        rms_norm_eps=ours.norm_eps,
        use_bidirectional_attention="vision",
        rope_parameters={"sliding_attention": _rope(sliding), "full_attention": _rope(full)},
    )
    special = dict(zip(("image_token_id", "boi_token_id", "eoi_token_id"), range(3, 6), strict=True))
    config = transformers.DiffusionGemmaConfig(
        text_config=text, vision_config=dict(VISION), canvas_length=ours.canvas_length, **special
    )
    config._attn_implementation = "sdpa"
    return config


def _rope(layer: LayerConfig) -> dict[str, Any]:
    if layer.sliding:
        return {"rope_type": "default", "rope_theta": layer.rope_theta}
    share = 2 * layer.rotated_pairs / layer.head_dim
    return {"rope_type": "proportional", "partial_rotary_factor": share, "rope_theta": layer.rope_theta}


class Transformers:
    """Eager with the dynamic cache, or compiled as `generate` does it with the static one."""

    def __init__(self, ours: Transformer, compiled: bool):
        self.name, self._compiled = (COMPILED if compiled else EAGER), compiled
        self._ours, self._model = ours, their_model(ours)
        self.experts = self._choose_experts()

    def _choose_experts(self) -> str:
        try:
            self._model.set_experts_implementation(EXPERTS)
        except (ValueError, ImportError) as error:
            raise BenchError(f"transformers does not take experts {EXPERTS!r}: {error}") from error
        return str(self._model.config._experts_implementation)

    @torch.no_grad()
    def prepare(self, canvases: int, prefix: int) -> Passes:
        model, config = self._model, self._ours.config
        device, length = self._ours.embedding.device, config.canvas_length
        settings, _ = model._prepare_generation_config(None, max_denoising_steps=STEPS, **NEVER)
        cache = self._cache(canvases, prefix)
        sampler = model._prepare_sampler(settings)
        stopping = model._prepare_diffusion_stopping_criteria(settings)
        forward, encode = model.forward, model.model.encoder
        if self._compiled:
            encode, forward, sampler, stopping = self._compile(sampler, stopping)
        seen = torch.ones(canvases, prefix + length, dtype=torch.bool, device=device)
        positions = torch.arange(prefix, prefix + length, dtype=torch.int32, device=device).unsqueeze(0)
        canvas, _, mask, finished = model._prepare_denoiser_inputs(
            decoder_attention_mask=seen,
            past_key_values=cache,
            sampler=sampler,
            diffusion_stopping_criteria=stopping,
            batch_size=canvases,
            device=device,
            model_kwargs={},
        )
        # Nothing is believed before the first step, which would be a second graph to compile and a cheaper step.
        shape = canvases, length, config.vocab_size
        believed = torch.zeros(shape, dtype=self._ours.embedding.dtype, device=device)
        state = [canvas, canvas, believed, finished]
        processors = model._prepare_logits_processor(settings)

        @torch.no_grad()
        def step() -> None:
            state[:] = model._denoising_step(
                decoder_forward=forward,
                current_canvas=state[0],
                argmax_canvas=state[1],
                input_ids=canvas,
                decoder_position_ids=positions,
                self_conditioning_logits=state[2],
                mask_mapping=mask,
                past_key_values=cache,
                finished_denoising=state[3],
                cur_step=STEPS // 2,
                sampler=sampler,
                logits_processor=processors,
                diffusion_stopping_criteria=stopping,
            )

        ids, masks = model._prepare_encoder_inputs(
            input_ids=canvas,
            attention_mask=seen,
            encoder_position_ids=positions,
            past_key_values=cache,
            is_prefill=False,
            canvas_length=length,
            batch_size=canvases,
        )

        @torch.no_grad()
        def commit() -> None:
            torch.compiler.cudagraph_mark_step_begin()  # as a denoising step would
            encode(input_ids=ids, attention_mask=masks, past_key_values=cache, position_ids=positions)

        return Passes(step, commit, as_now(cache))

    def release(self) -> None:
        if not self._compiled:
            return
        for name in [name for name in vars(self._model) if name.startswith("_compiled_")]:
            delattr(self._model, name)
        torch._dynamo.reset()  # or the next size would be compiled for sizes in general, which is slower

    def _cache(self, canvases: int, prefix: int) -> Any:
        import transformers

        text, config = self._model.config.get_text_config(decoder=True), self._ours.config
        made: Any = transformers.DynamicCache(config=text)
        if self._compiled:
            made = transformers.StaticCache(config=text, max_cache_len=prefix + config.canvas_length)
        for layer, kept in enumerate(made.layers):
            each = [prefix_of(config, layer, one, prefix, self._ours.embedding) for one in range(canvases)]
            keys, values = (torch.stack(part).transpose(1, 2) for part in zip(*each, strict=True))
            made.update(keys, values, layer)
            if not made.is_compileable:  # the end of a longer tensor, which would stay for it
                kept.keys, kept.values = kept.keys.clone(), kept.values.clone()
        return made

    def _compile(self, sampler: Any, stopping: Any) -> tuple[Any, ...]:
        """As `generate` does; on a CPU nothing is compiled, only traced."""
        if self._ours.embedding.device.type == "cpu":
            trace = partial(torch.compile, backend="eager", fullgraph=True)
            self._model._compiled_encoder = trace(self._model.model.encoder)
            self._model._compiled_decoder_forward = trace(self._model.forward)
            self._model._compiled_accept_canvas = trace(sampler.accept_canvas)
            self._model._compiled_renoise_canvas = trace(sampler.renoise_canvas)
            self._model._compiled_diffusion_stopping_criteria = stopping.__call__
        return tuple(self._model._compile_functions(sampler, stopping))


def as_now(cache: Any) -> Callable[[], None]:
    """What makes the cache as long as it is now. What a static one has behind that is overwritten later."""
    kept = [(layer, dict(vars(layer))) for layer in cache.layers]
    lengths = [layer.cumulative_length for layer in cache.layers if hasattr(layer, "cumulative_length")]
    counters = [(length, length.clone()) for length in lengths if isinstance(length, Tensor)]

    def rewind() -> None:
        for layer, were in kept:
            vars(layer).update(were)
        for counter, was in counters:
            counter.copy_(was)

    return rewind
