"""The dashboard of the engines of a job: how near the device's limit they are, and what keeps them from it."""

from __future__ import annotations

from collections.abc import Iterator

from dashboards.board import dashboard, job_variable, worker_variable
from dashboards.job import PHASE_COLORS
from dashboards.panels import Json, Limits, Query, stat, timeseries

JOB = '{job="$job"}'
PROMPTS = '{job="$job",kind="prompt"}'
WORKERS = '{job="$job",worker=~"$worker"}'
LOADED = '{job="$job",worker=~"$worker",phase!="load"}'
STEPPING = '{job="$job",phase=~"denoise|sample"}'  # of all workers, as the steps are
BUSY = '{job="$job",worker=~"$worker",phase=~"prefill|denoise|sample"}'
STEP_S = (
    f"sum(rate(dgbatch_device_seconds_total{STEPPING}[$__rate_interval])) "
    f"/ sum(rate(dgbatch_denoise_steps_total{JOB}[$__rate_interval]))"
)


def engine() -> Json:
    rows = {"Now": now(), "Speed": speed(), "Canvases": canvases(), "Cache and memory": cache_and_memory()}
    return dashboard(
        "dgbatch-engine",
        "The engines of one dgbatch job, worker by worker.",
        [job_variable(many=False), worker_variable()],
        rows,
    )


def now() -> Iterator[Json]:
    yield stat(
        "Workers",
        "Workers that report; what is shown below are those chosen above.",
        "none",
        Query(f"count(count by (worker) (dgbatch_canvases_in_flight{WORKERS}))"),
    )
    yield stat(
        "Of the device's limit",
        "Mean share that the engines reach of what memory and arithmetic of their devices allow. A small model on "
        "a CPU reaches a few per cent.",
        "percentunit",
        Query(f"avg(dgbatch_roofline_ratio{WORKERS})"),
        Limits(orange=0.4, red=0.2, low=True),
    )
    yield stat(
        "Devices busy",
        "Share of the time after loading spent in prefill, denoise and sample.",
        "percentunit",
        Query(
            f"sum(rate(dgbatch_device_seconds_total{BUSY}[$__rate_interval])) "
            f"/ sum(rate(dgbatch_device_seconds_total{LOADED}[$__rate_interval]))"
        ),
        Limits(orange=0.75, red=0.5, low=True),
    )
    yield stat(
        "Canvases in flight",
        "Canvases that are denoised together when all workers are full.",
        "none",
        Query(f"sum(dgbatch_canvases_in_flight{WORKERS})"),
    )
    yield stat(
        "Tile occupancy",
        "Mean tiles in a forward pass over the canvases in flight: below 1, places were empty; above 1, prompts were "
        "encoded beside full canvases.",
        "percentunit",
        Query(f"avg(dgbatch_tile_occupancy_ratio{WORKERS})"),
        Limits(orange=0.8, red=0.5, low=True),
    )
    yield stat(
        "Prompt tokens from the cache",
        "Tokens of shared prefixes that were not computed again, over all tokens of prompts, of all workers. Prompts "
        "count at commits, hits at once: true over some minutes.",
        "percentunit",
        Query(
            f"sum(rate(dgbatch_prefix_cache_hit_tokens_total{JOB}[$__rate_interval])) "
            f"/ sum(rate(dgbatch_tokens_total{PROMPTS}[$__rate_interval]))"
        ),
    )


def speed() -> Iterator[Json]:
    yield timeseries(
        "Step time against the roofline",
        "Device time of one denoising step of one canvas, and the least that the device's limits allow for it. "
        "Of all workers. Steps count at commits, time at once: true over some minutes.",
        "s",
        Query(STEP_S, "measured"),
        Query(f"{STEP_S} * avg(dgbatch_roofline_ratio{JOB})", "the device's limit"),
        colors={"the device's limit": "text"},
    )
    yield timeseries(
        "Of the device's limit",
        "Share that each worker reaches of what memory and arithmetic of its device allow.",
        "percentunit",
        Query(f"max by (worker) (dgbatch_roofline_ratio{WORKERS})", "{{worker}}"),
        limits=Limits(orange=0.4, red=0.2, low=True),
    )
    yield timeseries(
        "Where device time goes",
        "Share of the workers' time by phase. Green and blue are work; orange waits for rows, red for data files.",
        "percentunit",
        Query(f"sum by (phase) (rate(dgbatch_device_seconds_total{WORKERS}[$__rate_interval]))", "{{phase}}"),
        stack="percent",
        colors=PHASE_COLORS,
    )
    yield timeseries(
        "Devices busy",
        "Share of each worker's time after loading spent in prefill, denoise and sample.",
        "percentunit",
        Query(
            f"sum by (worker) (rate(dgbatch_device_seconds_total{BUSY}[$__rate_interval])) "
            f"/ sum by (worker) (rate(dgbatch_device_seconds_total{LOADED}[$__rate_interval]))",
            "{{worker}}",
        ),
        limits=Limits(orange=0.75, red=0.5, low=True),
        ceiling=1,
    )


def canvases() -> Iterator[Json]:
    yield timeseries(
        "Canvases in flight",
        "Canvases that each worker denoises together when it is full. It falls where memory was short.",
        "none",
        Query(f"max by (worker) (dgbatch_canvases_in_flight{WORKERS})", "{{worker}}"),
    )
    yield timeseries(
        "Tile occupancy",
        "Tiles in a forward pass over the canvases in flight, lately. Above 1 while prompts are encoded beside them.",
        "percentunit",
        Query(f"max by (worker) (dgbatch_tile_occupancy_ratio{WORKERS})", "{{worker}}"),
        limits=Limits(orange=0.8, red=0.5, low=True),
    )


def cache_and_memory() -> Iterator[Json]:
    yield timeseries(
        "Tokens from the prefix cache",
        "Tokens of prompts whose keys and values another prompt had left behind: prefill that was not done.",
        "count:tokens/s",
        Query(
            f"sum by (worker) (rate(dgbatch_prefix_cache_hit_tokens_total{WORKERS}[$__rate_interval]))",
            "{{worker}}",
        ),
    )
    yield timeseries(
        "Device memory",
        "The most that each worker has held at once: of its GPU, or of its process's memory where it has none.",
        "bytes",
        Query(f"max by (worker) (dgbatch_device_memory_bytes{WORKERS})", "{{worker}}"),
    )
