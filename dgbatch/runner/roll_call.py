"""Workers come and go: what the run keeps of each. All of them must have the very same checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dgbatch.errors import OutputError, RunFailed

if TYPE_CHECKING:
    from dgbatch.runner.report import Report
    from dgbatch.runner.run_folder import Run
    from dgbatch.runner.spec import JobSpec


def welcome(run: Run, spec: JobSpec, worker: str, report: Report) -> None:
    """Keep what the first report of a loaded worker says. Raises OutputError for another checkpoint."""
    checksum = run.info.get("model", {}).get("checksum")
    if checksum and report.model_checksum != checksum:
        raise OutputError(
            f"{run.path}: this run was started with a checkpoint of checksum {checksum[:12]}, and worker {worker} "
            f"found {report.model_checksum[:12]} at {spec.model.checkpoint}. Put the old files back, or start anew "
            "with --new-run."
        )
    if not checksum:
        run.note_model(report.model_checksum)
    if report.device not in run.canvases:
        run.note_canvases(report.device, report.canvases, report.curve)
    run.event("worker_ready", worker=worker, where=report.where, device=report.device, canvases=report.canvases)


def farewell(run: Run, workers: Iterable[tuple[str, Report]]) -> None:
    """Keep what workers did with their time, as their last reports told it. Nobody decides anything by it: where it
    cannot be written, other things cannot, and those say so.
    """
    with suppress(RunFailed):
        run.events_of("worker_stats", [_stats(worker, report) for worker, report in workers if report.loaded])


def _stats(worker: str, report: Report) -> dict[str, Any]:
    stats = report.stats
    took = sum(stats.seconds.get(phase, 0.0) for phase in ("denoise", "sample"))
    return {
        "worker": worker,
        "device": report.device,
        "where": report.where,
        "canvases": report.canvases,
        "seconds": {phase: round(seconds, 3) for phase, seconds in stats.seconds.items()},
        "passes": stats.passes,
        "tiles": stats.tiles,
        "tokens": stats.tokens,
        "denoise_steps": stats.denoise_steps,
        "shared_tokens": stats.shared_tokens,
        "peak_bytes": stats.peak_bytes,
        "roofline": round(stats.floor_s / took, 4) if stats.floor_s and took > 0 else None,
    }
