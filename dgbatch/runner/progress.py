"""A running job at one moment, as people and programs see it. Plain frozen data; nothing here draws or measures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

State = Literal["validating", "in_progress", "finalizing", "completed", "failed", "cancelled"]
AT_WORK: tuple[State, ...] = ("validating", "in_progress", "finalizing")
WorkerState = Literal["starting", "working", "idle", "leaving"]

# What a device's time goes to, as people are shown it; what an engine says that is not here stands for itself.
PHASES = {
    "tokenize": "prefill", "prefill": "prefill", "denoise": "denoise", "sample": "sample",
    "wait_input": "waiting", "wait_output": "waiting",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker. Counts and seconds run since its start, and include work that is not committed."""

    name: str
    state: WorkerState = "starting"
    device: str = ""
    canvases: int = 0  # in flight at most
    rows: int = 0
    tokens_per_s: float | None = None  # of late
    since_step_s: float = 0.0  # since it last showed a sign of work, or had none to do
    seconds: Mapping[str, float] = field(default_factory=dict)  # by phase, as the engine names them

    @property
    def shares(self) -> dict[str, float]:
        return shares_of(self.seconds)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that went wrong while the job went on."""

    at: str  # ISO 8601, UTC
    text: str


@dataclass(frozen=True, slots=True)
class Progress:
    """A run at one moment, work in flight included."""

    state: State
    name: str
    path: str
    expected: int = 0  # rows times samples
    rows: int = 0  # completed or quarantined, committed or not
    quarantined: int = 0  # in committed shards
    ok: int = 0  # in committed shards
    tokens: int = 0  # in committed shards
    shards: int = 0
    shards_done: int = 0
    tokens_per_s: float | None = None  # of late
    rows_per_s: float | None = None
    mean_tokens_per_s: float | None = None  # since the first worker was ready
    eta_s: float | None = None
    steps_per_canvas: float | None = None
    recent_steps: tuple[float, ...] = ()  # steps per canvas in a row of moments, the last one now
    seconds: Mapping[str, float] = field(default_factory=dict)  # by phase, over all workers of this submit
    crew: tuple[WorkerView, ...] = ()
    problems: tuple[Problem, ...] = ()  # the last ones, the newest last
    elapsed_s: float = 0.0
    note: str = ""  # what is going on when it is not plain work, or what has just happened
    metrics_url: str = ""  # where the metrics are

    @property
    def workers(self) -> int:
        """Those whose model is loaded."""
        return sum(worker.state != "starting" for worker in self.crew)

    @property
    def shares(self) -> dict[str, float]:
        """Of the workers' time since their models were loaded."""
        return shares_of(self.seconds)

    def to_json(self) -> dict[str, Any]:
        """What `status --json` says, and more of it."""
        return {
            "state": self.state,
            "name": self.name,
            "run": self.path,
            "rows": {"expected": self.expected, "done": self.rows, "ok": self.ok, "quarantined": self.quarantined},
            "shards": {"expected": self.shards, "committed": self.shards_done},
            "tokens": self.tokens,
            "tokens_per_s": _rounded(self.tokens_per_s),
            "mean_tokens_per_s": _rounded(self.mean_tokens_per_s),
            "rows_per_s": _rounded(self.rows_per_s),
            "eta_s": _rounded(self.eta_s),
            "elapsed_s": _rounded(self.elapsed_s),
            "steps_per_canvas": _rounded(self.steps_per_canvas),
            "recent_steps": [_rounded(steps) for steps in self.recent_steps],
            "seconds": {phase: _rounded(seconds) for phase, seconds in self.seconds.items()},
            "workers": self.workers,
            "crew": [
                {
                    **asdict(worker),
                    "tokens_per_s": _rounded(worker.tokens_per_s),
                    "since_step_s": _rounded(worker.since_step_s),
                    "seconds": {phase: _rounded(seconds) for phase, seconds in worker.seconds.items()},
                }
                for worker in self.crew
            ],
            "problems": [asdict(problem) for problem in self.problems],
            "note": self.note,
            "metrics_url": self.metrics_url,
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Progress:
        """What `to_json` said. Raises KeyError or TypeError for anything else."""
        rows, shards = told["rows"], told["shards"]
        same = ("state", "name", "tokens", "tokens_per_s", "mean_tokens_per_s", "rows_per_s", "eta_s", "elapsed_s",
                "steps_per_canvas", "seconds", "note", "metrics_url")  # fmt: skip
        return cls(
            path=told["run"],
            expected=rows["expected"],
            rows=rows["done"],
            ok=rows["ok"],
            quarantined=rows["quarantined"],
            shards=shards["expected"],
            shards_done=shards["committed"],
            recent_steps=tuple(told["recent_steps"]),
            crew=tuple(WorkerView(**worker) for worker in told["crew"]),
            problems=tuple(Problem(**problem) for problem in told["problems"]),
            **{name: told[name] for name in same},
        )


OnProgress = Callable[[Progress], None]


def shares_of(seconds: Mapping[str, float]) -> dict[str, float]:
    """By what people are shown, the largest first; without the time that a model took to load."""
    found: Counter[str] = Counter()
    for phase, spent in seconds.items():
        if phase != "load" and spent > 0:
            found[PHASES.get(phase, phase)] += spent  # type: ignore[assignment]  # a Counter adds up seconds as well
    total = sum(found.values())
    return {phase: spent / total for phase, spent in found.most_common()}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
