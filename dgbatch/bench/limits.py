"""What this device can do at most, and what our engine makes of it: a GEMM, a copy, and ms per denoising step."""

from __future__ import annotations

import time
from statistics import median

import torch

from dgbatch.bench.continuous import with_canvases
from dgbatch.engine.engine import Engine
from dgbatch.engine.limits import copy_bytes_per_s, gemm_flops_per_s
from dgbatch.errors import BenchError
from dgbatch.records import Generation, Prompt
from dgbatch.roofline import FORMATS, Device, Shape

TRIES, LEAST_S = 7, 0.02
STEPS = (4, 20)  # a run of each; the time between them is that of 16 steps


def here(engine: Engine) -> tuple[Device, str]:
    """This machine's limits in the engine's dtype: the best of a few tries of each, right now; and the format's name.

    The copy is as large as the weights: what a cache can keep of them comes out as fast as it is.
    """
    form = engine.format
    if form not in FORMATS:
        raise BenchError(f"no roofline for {form}: the formats known are {', '.join(FORMATS)}")
    weights = Shape.of(engine.model.config).weights
    moved = copy_bytes_per_s(engine.device, engine.dtype, weights, TRIES, LEAST_S)
    return Device("here", moved, {form: gemm_flops_per_s(engine.device, engine.dtype, TRIES, LEAST_S)}), form


@torch.inference_mode()
def step_s(engine: Engine, canvases: int, prefix: int, repeats: int = 3) -> tuple[float, int]:
    """Seconds a denoising step of so many canvases takes, and the tokens that they see before themselves.

    All of `generate` is timed, over a few steps and over more; the difference is steps alone. No canvas settles early.
    """
    own = with_canvases(engine, canvases)
    text, tokens = text_of(engine, prefix)

    def run(steps: int) -> float:
        fixed = Generation(
            max_new_tokens=own.model.config.canvas_length, max_denoising_steps=steps, stability=10**6, stop=()
        )
        prompts = [
            Prompt(str(n), 0, ({"role": "user", "content": text},), noise_key=n, generation=fixed)
            for n in range(canvases)
        ]
        start = time.perf_counter()
        done = list(own.generate(prompts))
        assert sum(getattr(one, "denoise_steps", 0) for one in done) == steps * canvases
        return time.perf_counter() - start

    few, many = STEPS
    run(many)
    slopes = [(run(many) - run(few)) / (many - few) for _ in range(repeats)]
    return median(slopes), tokens


def text_of(engine: Engine, tokens: int) -> tuple[str, int]:
    """A prompt of at most so many tokens, chat template included, and how many it has."""
    least = len(engine.tokenizer.encode_chat(({"role": "user", "content": ""},)))
    text = "0 " * tokens
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        fits = len(engine.tokenizer.encode_chat(({"role": "user", "content": text[:middle] + "0"},))) <= tokens
        low, high = (middle, high) if fits else (low, middle - 1)
    if least >= tokens:
        raise BenchError(f"--prefix {tokens}: the chat template alone has {least} tokens")
    text = text[:low] + "0"
    return text, len(engine.tokenizer.encode_chat(({"role": "user", "content": text},)))
