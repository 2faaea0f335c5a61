"""The dashboard of all jobs: what runs, how fast, what fails, and which devices idle."""

from __future__ import annotations

from collections.abc import Iterator

from dashboards.board import dashboard, job_variable
from dashboards.panels import NO_LIMIT, Column, Json, Limits, Query, stat, table, timeseries

JOBS = '{job=~"$job"}'
OPEN = '{job=~"$job",state=~"validating|in_progress|finalizing"}'
OK = '{job=~"$job",status="ok"}'
QUARANTINED = '{job=~"$job",status="quarantined"}'
WRITTEN = '{job=~"$job",kind!="prompt"}'  # tokens that the model wrote, thinking included
LOADED = '{job=~"$job",phase!="load"}'
BUSY = '{job=~"$job",phase=~"prefill|denoise|sample"}'
STAFF = '{job=~"$job",state=~"working|idle"}'
COMMITTED = "Counted when a shard is committed, so it moves in steps."


def fleet() -> Json:
    rows = {
        "Now": now(),
        "Jobs": jobs_tables(),
        "Throughput": throughput(),
        "Failures": failures(),
        "Devices": devices(),
    }
    return dashboard("dgbatch-fleet", "All dgbatch jobs that this Prometheus scrapes.", [job_variable(many=True)], rows)


def now() -> Iterator[Json]:
    yield stat(
        "Jobs in progress",
        "Jobs whose driver is scraped and is neither done, failed nor cancelled.",
        "none",
        Query(f"count(max by (job) (dgbatch_run_state{OPEN}) == 1) or vector(0)"),
        now=True,
    )
    yield stat(
        "Alerts firing",
        "Alerts of dgbatch that fire now; docs/alerts.md says what to do about each.",
        "none",
        Query('count(ALERTS{alertname=~"Dgbatch.*",alertstate="firing"}) or vector(0)'),
        Limits(red=1),
        now=True,
    )
    yield stat(
        "Rows per second",
        f"Rows that all jobs completed; those given up on do not count. {COMMITTED}",
        "count:rows/s",
        Query(f"sum(rate(dgbatch_rows_total{OK}[$__rate_interval]))"),
        now=True,
    )
    yield stat(
        "Tokens per second",
        f"Tokens that all models wrote, thinking included. {COMMITTED}",
        "count:tokens/s",
        Query(f"sum(rate(dgbatch_tokens_total{WRITTEN}[$__rate_interval]))"),
        now=True,
    )
    yield stat(
        "Quarantined",
        "Share of the rows of all jobs, from their first submit on, that were given up on.",
        "percentunit",
        Query(f"sum(dgbatch_rows_total{QUARANTINED}) / sum(dgbatch_rows_total{JOBS})"),
        Limits(orange=0.01, red=0.05),
        now=True,
    )
    yield stat(
        "Devices idle",
        "Share of the time of loaded devices in which they neither prefill, denoise nor sample.",
        "percentunit",
        Query(
            f"1 - sum(rate(dgbatch_device_seconds_total{BUSY}[$__rate_interval])) "
            f"/ sum(rate(dgbatch_device_seconds_total{LOADED}[$__rate_interval]))"
        ),
        Limits(orange=0.25, red=0.5),
        now=True,
    )


def jobs_tables() -> Iterator[Json]:
    yield table(
        "Running now",
        "Jobs whose driver is scraped. Ended ones are in the table below. Click a job for its own dashboard.",
        ["job", "state"],
        [
            Column("", f"max by (job, state) (dgbatch_run_state{JOBS}) == 1", "none"),
            Column(
                "Progress",
                f"sum by (job) (dgbatch_rows_total{JOBS}) / sum by (job) (dgbatch_rows_expected{JOBS})",
                "percentunit",
                bar=True,
            ),
            Column("Rows/s", f"sum by (job) (rate(dgbatch_rows_total{OK}[$__rate_interval]))", "short"),
            Column("Tokens/s", f"sum by (job) (rate(dgbatch_tokens_total{WRITTEN}[$__rate_interval]))", "short"),
            Column("Time left", f"max by (job) (dgbatch_eta_seconds{JOBS})", "dtdhms"),
            Column(
                "Quarantined",
                f"sum by (job) (dgbatch_rows_total{QUARANTINED}) / sum by (job) (dgbatch_rows_total{JOBS})",
                "percentunit",
                Limits(orange=0.01, red=0.05),
            ),
            Column("Workers", f"sum by (job) (dgbatch_workers{STAFF})", "none"),
            Column(
                "Since last commit",
                f"time() - max by (job) (dgbatch_last_commit_timestamp_seconds{JOBS})",
                "s",
                Limits(orange=900, red=3600),
            ),
        ],
        link=("Job dashboard", "/d/dgbatch-job?var-job=${__value.text}&${datasource:queryparam}&${__url_time_range}"),
    )
    yield table(
        "In this time range",
        "All jobs that committed something in the time range, ended ones too, with the last that was seen of each.",
        ["job"],
        [
            Column("Rows", _last("dgbatch_rows_total", OK), "locale"),
            Column("Expected", _last("dgbatch_rows_expected", JOBS), "locale"),
            Column("Quarantined", _last("dgbatch_rows_total", QUARANTINED), "locale", Limits(orange=1)),
            Column("Started", f"{_last('dgbatch_start_timestamp_seconds', JOBS)} * 1000", "dateTimeAsIso"),
            Column("Last commit", f"{_last('dgbatch_last_commit_timestamp_seconds', JOBS)} * 1000", "dateTimeAsIso"),
        ],
        link=("Job dashboard", "/d/dgbatch-job?var-job=${__value.text}&${datasource:queryparam}&${__url_time_range}"),
    )


def throughput() -> Iterator[Json]:
    yield timeseries(
        "Rows per second",
        f"Rows that each job completed; those given up on do not count. {COMMITTED}",
        "count:rows/s",
        Query(f"sum by (job) (rate(dgbatch_rows_total{OK}[$__rate_interval]))", "{{job}}"),
        stack="normal",
    )
    yield timeseries(
        "Tokens per second",
        f"Tokens that the model wrote, thinking included. {COMMITTED}",
        "count:tokens/s",
        Query(f"sum by (job) (rate(dgbatch_tokens_total{WRITTEN}[$__rate_interval]))", "{{job}}"),
        stack="normal",
    )
    yield timeseries(
        "Progress",
        "Share of the expected rows that are committed.",
        "percentunit",
        Query(f"sum by (job) (dgbatch_rows_total{JOBS}) / sum by (job) (dgbatch_rows_expected{JOBS})", "{{job}}"),
        ceiling=1,
    )
    yield timeseries(
        "Time left",
        "What each driver thinks is left of its job; absent while it cannot know.",
        "s",
        Query(f"max by (job) (dgbatch_eta_seconds{JOBS})", "{{job}}"),
    )


def failures() -> Iterator[Json]:
    yield timeseries(
        "Rows quarantined",
        "Share of newly committed rows that were given up on. Above 5 % for a while, DgbatchFailingRows fires.",
        "percentunit",
        Query(
            # delta: a retry takes rows out of quarantine again
            f"clamp_min(sum by (job) (delta(dgbatch_rows_total{QUARANTINED}[$__rate_interval])), 0) "
            f"/ (sum by (job) (delta(dgbatch_rows_total{JOBS}[$__rate_interval])) > 0)",
            "{{job}}",
        ),
        limits=Limits(orange=0.01, red=0.05),
    )
    yield timeseries(
        "Workers replaced",
        "Workers started anew, by reason. More than 2 in 15 minutes are a crash loop: DgbatchWorkerCrashLoop.",
        "none",
        Query(
            f"sum by (job, reason) (increase(dgbatch_worker_restarts_total{JOBS}[$__rate_interval]))",
            "{{job}}: {{reason}}",
        ),
        limits=NO_LIMIT,
    )


def devices() -> Iterator[Json]:
    yield timeseries(
        "Devices busy",
        "Share of the time of each job's loaded devices spent in prefill, denoise and sample.",
        "percentunit",
        Query(
            f"sum by (job) (rate(dgbatch_device_seconds_total{BUSY}[$__rate_interval])) "
            f"/ sum by (job) (rate(dgbatch_device_seconds_total{LOADED}[$__rate_interval]))",
            "{{job}}",
        ),
        limits=Limits(orange=0.75, red=0.5, low=True),
        ceiling=1,
        width=8,
    )
    yield timeseries(
        "Workers",
        "Workers of all jobs by state. Idle ones hold a device and have no shard; starting ones load their checkpoint.",
        "none",
        Query(f"sum by (state) (dgbatch_workers{JOBS})", "{{state}}"),
        stack="normal",
        colors={"working": "green", "idle": "red", "starting": "blue", "leaving": "yellow"},
        width=8,
    )
    yield timeseries(
        "Free where the output goes",
        "Free on the disk of each job's output; absent for object stores. Below 5 GB, DgbatchDiskAlmostFull fires.",
        "bytes",
        Query(f"min by (job) (dgbatch_output_free_bytes{JOBS})", "{{job}}"),
        limits=Limits(orange=20e9, red=5e9, low=True),
        width=8,
    )


def _last(metric: str, labels: str) -> str:
    """What the driver with the last commit said last; a job may have had several, and only one of them is right."""
    latest = f"topk by (job) (1, last_over_time(dgbatch_last_commit_timestamp_seconds{JOBS}[$__range]))"
    return f"max by (job) (last_over_time({metric}{labels}[$__range]) and on (job, instance) {latest})"
