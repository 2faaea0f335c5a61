"""Every metric of dgbatch, declared once: what it is called, what it means and does not mean, and where it comes from.

`page` writes them for one moment of a job as Prometheus reads them. docs/metrics.md is made from METRICS.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family

from dgbatch.records import PHASES
from dgbatch.runner.metering.moment import Moment, WorkerMoment, WorkerState
from dgbatch.runner.progress import State
from dgbatch.runner.sums import BOUNDS, Histogram

PREFIX = "dgbatch_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STATUSES = ("ok", "quarantined")
KINDS = ("prompt", "generated", "thinking")
SHARD_STATES = ("pending", "running", "committed", "given_up")
WORKER_STATES = get_args(WorkerState)
STATES = get_args(State)
RETRIES = ("shard_failed", "worker_lost", "out_of_memory", "preempted", "probe")
RESTARTS = ("died", "stalled", "engine_failed", "out_of_memory", "load_failed", "preempted")
UNSUMMED = "rows of commit records that earlier versions wrote, which hold no such sums."
COMMIT_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

Origin = Literal["commits", "driver", "workers"]
Value = float | tuple[Sequence[float], Histogram]  # a histogram with the bounds of its buckets
Samples = Iterable[tuple[tuple[str, ...], Value]]  # values of the labels, value


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. Each of its series also has the label `job`, the job's name."""

    name: str  # as it is written on the page, with the prefix
    kind: Literal["counter", "gauge", "histogram"]
    origin: Origin
    unit: str
    help: str
    read: Callable[[Moment], Samples]
    labels: tuple[str, ...] = ()

    def family(self, moment: Moment) -> Family:
        """Its series at this moment; none where nothing is known."""
        labels = ("job", *self.labels)
        if self.kind == "histogram":
            histogram = HistogramMetricFamily(self.name, self.help, labels=labels)
            for names, value in self.read(moment):
                assert isinstance(value, tuple)
                bounds, counted = value
                histogram.add_metric((moment.job, *names), _cumulative(bounds, counted), counted.sum)
            return histogram
        make = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        plain = make(self.name, self.help, labels=labels)
        for names, value in self.read(moment):
            assert not isinstance(value, tuple)
            plain.add_metric((moment.job, *names), value)
        return plain


def page(moment: Moment) -> bytes:
    """All series of a moment, in the text format of Prometheus."""
    return bytes(generate_latest(_Registry(moment)))


class _Registry:
    """What generate_latest asks of a registry."""

    def __init__(self, moment: Moment):
        self._moment = moment

    def collect(self) -> Iterator[Family]:
        for metric in METRICS:
            family = metric.family(self._moment)
            if family.samples:
                yield family


def _cumulative(bounds: Sequence[float], histogram: Histogram) -> list[tuple[str, float]]:
    counts = histogram.counts or (0,) * (len(bounds) + 1)
    names = [*(f"{bound:g}" if bound % 1 else f"{bound:.1f}" for bound in bounds), "+Inf"]
    return [(name, sum(counts[: place + 1])) for place, name in enumerate(names)]


# ---- where the values come from


def _one(value: float | None) -> Samples:
    return [] if value is None else [((), value)]


def _by(known: Sequence[str], values: Mapping[str, float]) -> Samples:
    """One series for each, zero where there was none: a rate needs the zero before the first."""
    return [((name,), values.get(name, 0)) for name in known]


def _of_workers(read: Callable[[WorkerMoment], float | None], ready: bool = True) -> Callable[[Moment], Samples]:
    def samples(moment: Moment) -> Samples:
        loaded = (worker for worker in moment.workers if not ready or worker.state != "starting")
        found = ((worker.name, read(worker)) for worker in loaded)
        return [((name,), value) for name, value in found if value is not None]

    return samples


def _of_sums(name: str) -> Callable[[Moment], Samples]:
    return lambda moment: [((), (BOUNDS[name], getattr(moment.tally.sums, name)))]


def _quarantined(moment: Moment) -> Samples:
    rows = dict(moment.tally.sums.quarantined)
    return _by(sorted({*moment.codes, *rows}), rows)


def _tokens(moment: Moment) -> Samples:
    tally = moment.tally
    thinking = tally.sums.thinking_tokens
    values = {"prompt": tally.prompt_tokens, "generated": tally.tokens - thinking, "thinking": thinking}
    return _by(KINDS, values)


def _device_seconds(moment: Moment) -> Samples:
    for worker in moment.workers:
        if worker.state != "starting":
            for phase in PHASES:
                yield (worker.name, phase), worker.stats.seconds.get(phase, 0.0)


def _workers(moment: Moment) -> Samples:
    states = [worker.state for worker in moment.workers]
    return [((state,), states.count(state)) for state in WORKER_STATES]


def _free_bytes(moment: Moment) -> Samples:
    if moment.free_path is None:
        return []
    try:
        disk = os.statvfs(moment.free_path)
    except OSError:
        return []
    return [((), disk.f_bavail * disk.f_frsize)]


def _build(moment: Moment) -> Samples:
    known = moment.versions
    return [((known.get("dgbatch", ""), known.get("python", ""), known.get("ray", ""), known.get("torch", "")), 1)]


def _commits(name: str, kind: Any, unit: str, help: str, read: Callable[[Moment], Samples], *labels: str) -> Metric:
    return Metric(PREFIX + name, kind, "commits", unit, help, read, labels)


def _driver(name: str, kind: Any, unit: str, help: str, read: Callable[[Moment], Samples], *labels: str) -> Metric:
    return Metric(PREFIX + name, kind, "driver", unit, help, read, labels)


def _worker(name: str, kind: Any, unit: str, help: str, read: Callable[[Moment], Samples], *labels: str) -> Metric:
    return Metric(PREFIX + name, kind, "workers", unit, help, read, ("worker", *labels))


# fmt: off
METRICS: tuple[Metric, ...] = (
    _commits("rows_total", "counter", "rows",
             "Rows in committed shards, by what became of them. Not counted: rows in work, and attempts that were "
             "lost. `dgbatch retry` moves rows from quarantined to ok, the one way in which a total here falls.",
             lambda m: _by(STATUSES, {"ok": m.tally.ok, "quarantined": m.tally.quarantined}), "status"),
    _commits("accepted_rows_total", "counter", "rows",
             "Rows in committed shards that passed all accept rules. Not counted: rows in work. Absent where the job "
             "has no rules.",
             lambda m: _one(m.tally.accepted if m.judged else None)),
    _commits("rows_expected", "gauge", "rows",
             "Rows that the run owes: those of the input times samples, done or not.",
             lambda m: _one(m.expected)),
    _commits("tokens_total", "counter", "tokens",
             "Tokens of ok rows in committed shards. The kinds are disjoint: generated is what was written outside "
             "the thinking, the end of turn included. Not counted: tokens in work, of lost attempts, of quarantined "
             "rows, and what a canvas held behind the end of a turn.",
             _tokens, "kind"),
    _commits("canvases_total", "counter", "canvases",
             "Canvases of ok rows in committed shards. Not counted: those of lost attempts.",
             lambda m: _one(m.tally.canvases)),
    _commits("denoise_steps_total", "counter", "steps",
             "Denoising steps of those canvases, each canvas on its own: a pass over 8 canvases is 8 steps. "
             "Not counted: those of lost attempts, and passes that encode.",
             lambda m: _one(m.tally.denoise_steps)),
    _commits("revised_tokens_total", "counter", "tokens",
             "Self-corrections: tokens that settled as another one than was first accepted in their place. Not "
             "counted: " + UNSUMMED,
             lambda m: _one(m.tally.sums.revised_tokens)),
    _commits("steps_per_canvas", "histogram", "steps",
             "Denoising steps of each canvas of an ok row. Not counted: " + UNSUMMED,
             _of_sums("steps_per_canvas")),
    _commits("tokens_per_forward", "histogram", "tokens",
             "Tokens of each ok row over its denoising steps: what one forward pass of a canvas yields. Not counted: "
             "passes that encode, and " + UNSUMMED,
             _of_sums("tokens_per_forward")),
    _commits("row_duration_seconds", "histogram", "seconds",
             "Prefill and denoising of each ok row, beside the others in its engine. Not counted: the time it waited "
             "for a canvas, and " + UNSUMMED,
             _of_sums("row_duration_s")),
    _commits("quarantined_rows", "gauge", "rows",
             "Rows in quarantine, by error code; falls when a retry mends them. Not counted: " + UNSUMMED,
             _quarantined, "code"),
    _commits("shards", "gauge", "shards",
             "Shards by state; a shard whose pieces are with several workers is running once. given_up: it used up "
             "its attempts in this submit.",
             lambda m: _by(SHARD_STATES, m.shards), "state"),
    _commits("commits_total", "counter", "records",
             "Commit records: of shards, of pieces of shards and of rounds of retry. Not counted: records that came "
             "after others of the same rows.",
             lambda m: _one(m.commits)),
    _commits("last_commit_timestamp_seconds", "gauge", "seconds",
             "When the last commit was made, by the driver's clock. Absent before the first.",
             lambda m: _one(m.last_commit_at)),
    _commits("start_timestamp_seconds", "gauge", "seconds",
             "When the run was made: its first submit, not this one.",
             lambda m: _one(m.started_at)),
    _commits("deadline_timestamp_seconds", "gauge", "seconds",
             "When the run is to be done: its start and metrics.deadline_s. Absent where the job sets none.",
             lambda m: _one(m.deadline_at)),
    _driver("commit_duration_seconds", "histogram", "seconds",
            "How long it took to publish each commit record. Begins at 0 with each submit. Not counted: the data "
            "files, which workers write.",
            lambda m: [((), (COMMIT_BOUNDS, m.commit_duration))]),
    _driver("retries_total", "counter", "pieces",
            "Shards, or pieces of them, that have to be given out again, by reason. Begins at 0 with each submit. Not "
            "counted: rows that `dgbatch retry` runs again.",
            lambda m: _by(RETRIES, m.retries), "reason"),
    _driver("worker_restarts_total", "counter", "workers",
            "Workers that were lost, or left, while the job went on, by reason. Begins at 0 with each submit. Not "
            "counted: the first start of each, and their end with the job.",
            lambda m: _by(RESTARTS, m.restarts), "reason"),
    _driver("workers", "gauge", "workers",
            "Workers by state. working: it holds a shard. Not counted: places that no worker was started for.",
            _workers, "state"),
    _driver("queue_age_seconds", "gauge", "seconds",
            "How long the worker that stands still longest, with a shard in its hands, has made no step; 0 where none "
            "holds any.",
            lambda m: _one(m.queue_age_s)),
    _driver("eta_seconds", "gauge", "seconds",
            "Until the last row, from what the workers have done so far. Absent while that is not known.",
            lambda m: _one(m.eta_s)),
    _driver("run_state", "gauge", "1",
            "1 for the state that the run is in, 0 for the others.",
            lambda m: _by(STATES, {m.state: 1}), "state"),
    _driver("output_free_bytes", "gauge", "bytes",
            "Free space on the disk of the output. Absent where the output is in a store.",
            _free_bytes),
    _driver("build_info", "gauge", "1",
            "Versions in the driver; 1. A worker on another machine may have others.",
            _build, "version", "python", "ray", "torch"),
    _driver("job_info", "gauge", "1",
            "What is run: the run's folder, the model's name and the checksum of its files; 1.",
            lambda m: [((m.run, m.model, m.checksum), 1)], "run", "model", "checksum"),
    _worker("canvases_in_flight", "gauge", "canvases",
            "Canvases that the worker's engine works on at once, when it is full.",
            _of_workers(lambda w: w.canvases)),
    _worker("tile_occupancy_ratio", "gauge", "ratio",
            "Tiles in a forward pass over canvases in flight, over the last seconds; 0 while there was no pass. Above "
            "1 while prompts are encoded beside full canvases.",
            _of_workers(lambda w: w.occupancy)),
    _worker("prefix_cache_hit_tokens_total", "counter", "tokens",
            "Prompt tokens that were found in the prefix cache, work that was lost later included. Not counted: what "
            "workers that are gone found.",
            _of_workers(lambda w: w.stats.shared_tokens)),
    _worker("device_seconds_total", "counter", "seconds",
            "What the worker's device did, or waited for: every second since the worker began to load in one phase. "
            "prefill: prompts and settled canvases on their way into the KV cache; wait_output: results being taken "
            "and written. Not counted: workers that are gone.",
            _device_seconds, "phase"),
    _worker("device_memory_bytes", "gauge", "bytes",
            "Most memory that the worker has held: of its GPU, or its process's where it has none.",
            _of_workers(lambda w: w.stats.peak_bytes)),
    _worker("roofline_ratio", "gauge", "ratio",
            "The least time that the device's limits allow for its denoising steps, over what they took, over the "
            "last seconds. Not counted: prefill. Absent while there was no step, and where the limits are not known.",
            _of_workers(lambda w: w.roofline)),
)
# fmt: on
