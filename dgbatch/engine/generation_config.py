"""What a checkpoint's generation_config.json says about sampling and the end of a turn. Knows no torch."""

from __future__ import annotations

from pathlib import Path

from dgbatch.engine.checkpoint import read_json
from dgbatch.records import Settings


def read_generation_config(folder: Path) -> tuple[Settings, list[int]]:
    """The checkpoint's sampler settings and end-of-turn ids; what it leaves out or null is DiffusionGemma's default."""
    said = {
        name: value
        for name, value in read_json(folder, "generation_config.json", required=False).items()
        if value is not None
    }
    ends = said.get("eos_token_id", read_json(folder, "config.json").get("eos_token_id"))
    defaults = Settings(
        max_new_tokens=said.get("max_new_tokens", 256),
        max_denoising_steps=said.get("max_denoising_steps", 48),
        entropy_bound=said.get("sampler_config", {}).get("entropy_bound", 0.1),
        temperature_start=said.get("t_max", 0.8),
        temperature_end=said.get("t_min", 0.4),
        confidence=said.get("confidence_threshold", 0.005),
        stability=said.get("stability_threshold", 1),
    )
    return defaults, [1] if ends is None else [ends] if isinstance(ends, int) else list(ends)
