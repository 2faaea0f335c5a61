"""The dashboard of one job: how far it is, how fast, where the time of its devices goes, and what was given up on."""

from __future__ import annotations

from collections.abc import Iterator

from dashboards.board import dashboard, job_variable, worker_variable
from dashboards.panels import Column, Json, Limits, Query, bars, heatmap, stat, table, timeseries

JOB = '{job="$job"}'
WORKERS = '{job="$job",worker=~"$worker"}'
OK = '{job="$job",status="ok"}'
QUARANTINED = '{job="$job",status="quarantined"}'
WRITTEN = '{job="$job",kind!="prompt"}'  # tokens that the model wrote, thinking included
STATUS_COLORS = {"ok": "green", "quarantined": "red"}
PHASE_COLORS = {
    "denoise": "green",
    "sample": "semi-dark-green",
    "prefill": "blue",
    "tokenize": "purple",
    "load": "dark-blue",
    "wait_input": "orange",
    "wait_output": "red",
}


def job() -> Json:
    rows = {
        "Progress": progress(),
        "Throughput": throughput(),
        "Denoising": denoising(),
        "Time": where_time_goes(),
        "Failures": failures(),
        "Run": run(),
    }
    return dashboard(
        "dgbatch-job",
        "One dgbatch job, from its commit records and its workers.",
        [job_variable(many=False), worker_variable()],
        rows,
    )


def progress() -> Iterator[Json]:
    yield stat(
        "State",
        "As `dgbatch status` has it. When the driver has left, that command is who knows.",
        "none",
        Query(f"max by (state) (dgbatch_run_state{JOB}) == 1", "{{state}}"),
        missing="no driver",
        text="name",
        now=True,
    )
    yield stat(
        "Progress",
        "Share of the expected rows that are committed, quarantined ones included.",
        "percentunit",
        Query(f"sum(dgbatch_rows_total{JOB}) / sum(dgbatch_rows_expected{JOB})"),
    )
    yield stat(
        "Time left",
        "What the driver thinks is left; nothing while it cannot know.",
        "dtdhms",
        Query(f"max(dgbatch_eta_seconds{JOB})"),
        missing="unknown",
        now=True,
    )
    yield stat(
        "Ahead of the deadline",
        "From the expected end to metrics.deadline_s of the job. Below zero it is late: DgbatchBehindDeadline.",
        "s",
        Query(f"min(dgbatch_deadline_timestamp_seconds{JOB}) - time() - max(dgbatch_eta_seconds{JOB})"),
        Limits(orange=600, red=0, low=True),
        missing="no deadline",
        now=True,
    )
    yield stat(
        "Quarantined rows",
        "Rows given up on; docs/quarantine.md explains each code.",
        "locale",
        Query(f"sum(dgbatch_rows_total{QUARANTINED})"),
        Limits(orange=1),
    )
    yield stat(
        "Since the last commit",
        "A commit makes a shard, or a piece of one, real. How long one takes depends on workers.shard_rows.",
        "s",
        Query(f"time() - max(dgbatch_last_commit_timestamp_seconds{JOB})"),
        Limits(orange=900, red=3600),
        now=True,
    )
    yield timeseries(
        "Rows",
        "Committed rows by status, as the dataset has them, and how many are expected. It survives a killed driver.",
        "locale",
        Query(f"sum by (status) (dgbatch_rows_total{JOB})", "{{status}}"),
        Query(f"sum(dgbatch_rows_expected{JOB})", "expected"),
        colors=STATUS_COLORS | {"expected": "text"},
    )
    yield timeseries(
        "Shards",
        "Shards by state. A shard that is given up on fails the job at its end.",
        "locale",
        Query(f"sum by (state) (dgbatch_shards{JOB})", "{{state}}"),
        stack="normal",
        colors={"committed": "green", "running": "blue", "pending": "text", "given_up": "red"},
    )


def throughput() -> Iterator[Json]:
    yield timeseries(
        "Rows per second",
        "Rows completed, and of these the ones that pass the accept rules of the job. Counted when a shard is "
        "committed, so it moves in steps.",
        "count:rows/s",
        Query(f"sum(rate(dgbatch_rows_total{OK}[$__rate_interval]))", "completed"),
        Query(f"sum(rate(dgbatch_accepted_rows_total{JOB}[$__rate_interval]))", "accepted"),
        colors={"completed": "green", "accepted": "blue"},
    )
    yield timeseries(
        "Tokens per second",
        "Prompts read, and text and thinking written, of committed shards.",
        "count:tokens/s",
        Query(f"sum by (kind) (rate(dgbatch_tokens_total{JOB}[$__rate_interval]))", "{{kind}}"),
        stack="normal",
    )
    yield timeseries(
        "Time of a row",
        "Prefill and denoising of a row, without its time in the queue: half of the rows take less than the median.",
        "s",
        Query(_quantile(0.5, "dgbatch_row_duration_seconds"), "median"),
        Query(_quantile(0.9, "dgbatch_row_duration_seconds"), "90 %"),
        Query(_quantile(0.99, "dgbatch_row_duration_seconds"), "99 %"),
    )
    yield timeseries(
        "Commits",
        "How long it took to publish a commit record; data files are the workers' work. Commits of this driver only.",
        "s",
        Query(_quantile(0.5, "dgbatch_commit_duration_seconds"), "median"),
        Query(_quantile(0.99, "dgbatch_commit_duration_seconds"), "99 %"),
    )


def denoising() -> Iterator[Json]:
    yield heatmap(
        "Denoising steps of a canvas",
        "Canvases by the steps they took until they settled. A band that climbs means text that is harder to write.",
        "none",
        Query(f"sum by (le) (increase(dgbatch_steps_per_canvas_bucket{JOB}[$__rate_interval]))", "{{le}}"),
        "count:canvases",
    )
    yield timeseries(
        "Tokens per forward pass",
        "Tokens of a row over its denoising steps: what diffusion gains over one token a pass, which would be 1.",
        "none",
        Query(_quantile(0.1, "dgbatch_tokens_per_forward"), "10 %"),
        Query(_quantile(0.5, "dgbatch_tokens_per_forward"), "median"),
        Query(
            f"sum(rate(dgbatch_tokens_per_forward_sum{JOB}[$__rate_interval])) "
            f"/ sum(rate(dgbatch_tokens_per_forward_count{JOB}[$__rate_interval]))",
            "mean",
        ),
        limits=Limits(red=1, low=True),
    )
    yield timeseries(
        "Steps and canvases per second",
        "Denoising steps, canvases, and their ratio: the mean steps of a canvas, of committed shards.",
        "short",
        Query(f"sum(rate(dgbatch_denoise_steps_total{JOB}[$__rate_interval]))", "steps/s"),
        Query(f"sum(rate(dgbatch_canvases_total{JOB}[$__rate_interval]))", "canvases/s"),
        Query(
            f"sum(rate(dgbatch_denoise_steps_total{JOB}[$__rate_interval])) "
            f"/ sum(rate(dgbatch_canvases_total{JOB}[$__rate_interval]))",
            "steps per canvas",
        ),
    )
    yield timeseries(
        "Self-corrections",
        "Tokens that the model took back and wrote anew, per token that it kept.",
        "percentunit",
        Query(
            f"sum(rate(dgbatch_revised_tokens_total{JOB}[$__rate_interval])) "
            f"/ sum(rate(dgbatch_tokens_total{WRITTEN}[$__rate_interval]))",
            "revised",
        ),
    )


def where_time_goes() -> Iterator[Json]:
    yield timeseries(
        "Where device time goes",
        "Share of the workers' time by phase. Green and blue are work; orange waits for rows, red for data files.",
        "percentunit",
        Query(f"sum by (phase) (rate(dgbatch_device_seconds_total{WORKERS}[$__rate_interval]))", "{{phase}}"),
        stack="percent",
        colors=PHASE_COLORS,
    )
    yield timeseries(
        "Workers",
        "Workers by state. Idle ones hold a device and have no shard; leaving ones hand over what they finished.",
        "none",
        Query(f"sum by (state) (dgbatch_workers{JOB})", "{{state}}"),
        stack="normal",
        colors={"working": "green", "idle": "red", "starting": "blue", "leaving": "yellow"},
        width=6,
    )
    yield timeseries(
        "Standing still",
        "How long the worker that stands still longest has made no step. After retry.stall_timeout_s (300 s unless the "
        "job says otherwise) it is replaced.",
        "s",
        Query(f"max(dgbatch_queue_age_seconds{JOB})", "longest"),
        limits=Limits(orange=60, red=300),
        width=6,
    )


def failures() -> Iterator[Json]:
    yield bars(
        "Quarantined rows by code",
        "Rows given up on, as last seen. docs/quarantine.md says what each code means and what to do.",
        "locale",
        Query(f"sum by (code) (dgbatch_quarantined_rows{JOB})", "{{code}}"),
        Limits(orange=1),
        width=8,
    )
    yield timeseries(
        "Retries",
        "Shards and pieces run again, by reason. Of this driver process: it starts at 0 with each submit.",
        "none",
        Query(f"sum by (reason) (increase(dgbatch_retries_total{JOB}[$__rate_interval]))", "{{reason}}"),
        stack="normal",
        width=8,
    )
    yield timeseries(
        "Workers replaced",
        "Workers started anew, by reason. Of this driver process. More than 2 in 15 minutes: DgbatchWorkerCrashLoop.",
        "none",
        Query(f"sum by (reason) (increase(dgbatch_worker_restarts_total{JOB}[$__rate_interval]))", "{{reason}}"),
        stack="normal",
        width=8,
    )


def run() -> Iterator[Json]:
    yield table(
        "Run",
        "What runs: the run folder, the model with its checksum, and the versions of the driver.",
        ["job", "run", "model", "checksum", "version", "python", "ray", "torch"],
        [
            Column("", f"max by (job, run, model, checksum) (dgbatch_job_info{JOB})", "none"),
            Column("", f"max by (job, version, python, ray, torch) (dgbatch_build_info{JOB})", "none"),
            Column("Started", f"min by (job) (dgbatch_start_timestamp_seconds{JOB}) * 1000", "dateTimeAsIso"),
            Column("Commits", f"sum by (job) (dgbatch_commits_total{JOB})", "locale"),
            Column("Free at the output", f"min by (job) (dgbatch_output_free_bytes{JOB})", "bytes"),
        ],
    )


def _quantile(share: float, histogram: str) -> str:
    return f"histogram_quantile({share}, sum by (le) (rate({histogram}_bucket{JOB}[$__rate_interval])))"
