"""The least time that a worker's device could have taken for its denoising steps: what it took is held against it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dgbatch import roofline
from dgbatch.roofline import Device, Shape

if TYPE_CHECKING:
    from dgbatch.records import EngineStats


class Floor:
    """Follows the counters of one engine; between two looks it takes their mean for each step."""

    def __init__(self, shape: Shape, device: Device, form: str):
        self.shape, self.device, self.form = shape, device, form
        self._seen = (0, 0, 0)  # steps, canvases in them, tokens before those
        self._floor_s = 0.0

    @classmethod
    def of(cls, engine: Any) -> Floor | None:
        """None for an engine whose sizes or limits are not known. A device that nobody has measured yet is measured."""
        if not hasattr(engine, "ceilings"):
            return None
        form = engine.format
        if form not in roofline.FORMATS:
            return None
        device = roofline.known(engine.device_name, form)
        if device is None:
            try:
                moved, sums = engine.ceilings()
            except Exception:  # noqa: BLE001  # no memory left to measure with: a worker without this number works as well
                return None
            device = Device(engine.device_name, moved, {form: sums})
        return cls(Shape.of(engine.model.config), device, form)

    def add(self, stats: EngineStats) -> EngineStats:
        """The same counters, with the floor of all steps so far."""
        now = (stats.steps, stats.canvas_tiles, stats.prefix_tokens)
        steps, canvases, tokens = (new - old for new, old in zip(now, self._seen, strict=True))
        if steps and canvases:  # the engine goes on counting while we read: it may be between the two
            self._seen = now
            one = roofline.denoise(self.shape, self.device, self.form, canvases / steps, tokens / canvases)
            self._floor_s += steps * roofline.seconds(one)
        return replace(stats, floor_s=self._floor_s)
