"""What a worker tells the driver: plain frozen data, so that both can know it without knowing each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dgbatch.records import CurvePoint, EngineStats

if TYPE_CHECKING:
    from dgbatch.runner.commits import Commit


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong: the class of the exception by name, because not every process can load it, and its text."""

    kind: str
    message: str
    shard: int | None = None  # None: it was the whole worker

    @staticmethod
    def of(error: BaseException, shard: int | None = None) -> Failure:
        return Failure(type(error).__name__, str(error) or repr(error), shard)

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


@dataclass(frozen=True, slots=True)
class Report:
    """The answer to one exchange. Counters run since the worker's start and include work that is not committed."""

    loaded: bool = False
    receipts: tuple[Commit, ...] = ()
    failures: tuple[Failure, ...] = ()
    probed: tuple[int, ...] = ()  # shards whose probe came through
    fatal: Failure | None = None  # the engine is gone, and the worker of no more use
    wants_rows: int = 0  # rows that would keep the engine busy beyond its shards
    open_rows: int = 0  # rows done in shards that are not
    stats: EngineStats = field(default_factory=EngineStats)
    heartbeat: int = 0  # any number that moves while the worker does
    device: str = ""
    canvases: int = 0  # in flight
    curve: tuple[CurvePoint, ...] = ()  # where the engine chose how many: what it measured
    model_checksum: str = ""
    where: str = ""  # host and process id
