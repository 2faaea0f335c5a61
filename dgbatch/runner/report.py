"""What a worker tells the driver: plain frozen data, so that both can know it without knowing each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dgbatch import errors
from dgbatch.records import CurvePoint, EngineStats

if TYPE_CHECKING:
    from dgbatch.runner.commits import Commit
    from dgbatch.runner.piece import Place
    from dgbatch.runner.spread import Counts

# What engines and their libraries say when a device has no memory left, beside exceptions named for it.
NO_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong: the class of the exception by name, because not every process can load it, and its text."""

    kind: str
    message: str
    place: Place | None = None  # of the piece that failed; None: it was the whole worker
    out_of_memory: bool = False  # of the device

    @staticmethod
    def of(error: BaseException, place: Place | None = None) -> Failure:
        kind, message = type(error).__name__, str(error) or repr(error)
        short = kind in ("OutOfMemoryError", "MemoryError") or any(text in message for text in NO_MEMORY)
        return Failure(kind, message, place, short)

    def raise_for_user(self) -> None:
        """As the error it is, when it is one that people can mend."""
        kind = getattr(errors, self.kind, None)
        if isinstance(kind, type) and issubclass(kind, errors.DgbatchError):
            raise kind(self.message)

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


@dataclass(frozen=True, slots=True)
class Report:
    """The answer to one exchange. Counters run since the worker's start and include work that is not committed."""

    loaded: bool = False
    receipts: tuple[Commit, ...] = ()
    failures: tuple[Failure, ...] = ()
    probed: tuple[Place, ...] = ()  # pieces whose probe came through
    cuts: tuple[tuple[Place, int | None], ...] = ()  # pieces it was asked to cut, and the first row it leaves to others
    unstarted: tuple[tuple[Place, int], ...] = ()  # open pieces, and their rows that the engine was not given
    gone: bool = False  # told to leave, it has done what it could: what it still holds is anybody's
    fatal: Failure | None = None  # the engine is gone, and the worker of no more use
    wants_rows: int = 0  # rows that would keep the engine busy beyond its pieces
    idle: bool = False  # it has nothing to begin, and half its canvases stand empty
    open_rows: int = 0  # rows done in pieces that are not
    lengths: Counts = ()  # rows done since its start, by their number of steps
    stats: EngineStats = field(default_factory=EngineStats)
    heartbeat: int = 0  # any number that moves while the worker does
    device: str = ""
    canvases: int = 0  # in flight
    curve: tuple[CurvePoint, ...] = ()  # where the engine chose how many: what it measured
    model_checksum: str = ""
    where: str = ""  # host and process id
