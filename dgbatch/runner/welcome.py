"""A worker has loaded the checkpoint: all workers of a run must have the very same one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dgbatch.errors import OutputError

if TYPE_CHECKING:
    from dgbatch.runner.report import Report
    from dgbatch.runner.run_folder import Run
    from dgbatch.runner.spec import JobSpec


def welcome(run: Run, spec: JobSpec, worker: str, report: Report) -> None:
    """Keep what its first report says of the model and the device. Raises OutputError for another model."""
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
