"""How many workers a job gets, and what each of them takes from the cluster. Pure: knows no Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dgbatch.errors import JobError

if TYPE_CHECKING:
    from dgbatch.runner.blocks import WorkersSpec


@dataclass(frozen=True, slots=True)
class Crew:
    """How many workers, and what each of them takes from the cluster."""

    count: int
    gpus: float
    cpus: float

    @property
    def engine_threads(self) -> int | None:
        return None if self.gpus else 1  # more threads would add in another order, and change tokens


def crew(workers: WorkersSpec, resources: Mapping[str, float]) -> Crew:
    """One worker per GPU, or per CPU core where there is no GPU, unless the job says otherwise."""
    cpus, gpus = resources.get("CPU", 1.0), resources.get("GPU", 0.0)
    each = (1.0 if gpus else 0.0) if workers.gpus == "auto" else workers.gpus
    if each == 0:
        count = max(1, int(cpus)) if workers.count == "auto" else workers.count
        return Crew(count, 0.0, min(1.0, cpus / count))
    count = max(1, int(gpus / each)) if workers.count == "auto" else workers.count
    if workers.address == "local" and count * each > gpus:
        raise JobError(
            f"workers: {count} with {each:g} GPUs each need {count * each:g} GPUs; this machine has {gpus:g}. "
            "Lower workers.count, or set workers.gpus to 0 to run on the CPU."
        )
    return Crew(count, each, min(1.0, cpus / count))
