"""What went wrong in a job: what comes of it, what people are told of it, and when it is too much."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from typing import TYPE_CHECKING

from dgbatch.errors import RunFailed
from dgbatch.records import CurvePoint
from dgbatch.runner import source
from dgbatch.runner.poison import Blame
from dgbatch.runner.sink import from_bytes

if TYPE_CHECKING:
    from dgbatch.runner.actors import Actor
    from dgbatch.runner.dispatch import Dispatch
    from dgbatch.runner.ledger import Ledger
    from dgbatch.runner.metering.meter import Meter, Restart
    from dgbatch.runner.piece import Key, Piece
    from dgbatch.runner.plan import Plan
    from dgbatch.runner.poison import Fate
    from dgbatch.runner.report import Failure
    from dgbatch.runner.run_folder import Run
    from dgbatch.runner.spec import JobSpec
    from dgbatch.runner.telling import Telling

IDLE_DEATHS = 3  # workers lost in a row with no piece in their hands before the run fails
SEARCH_DEATHS = 60  # the same for workers lost to searches for poison rows, while nothing at all comes through
KEEP_SHARE = 0.05  # of the driver's time, at most, goes into writing attempts.json
LOOKED_AT = 200  # quarantine files that are read to say what is in quarantine most often


class Losses:
    """Obeys dispatch where something went wrong, and keeps what it found for the next submit."""

    def __init__(
        self,
        spec: JobSpec,
        plan: Plan,
        run: Run,
        dispatch: Dispatch,
        telling: Telling,
        meter: Meter,
        of_retry: bool = False,
    ):
        self.spec, self.plan, self.run, self.dispatch, self.telling = spec, plan, run, dispatch, telling
        self.meter = meter
        self._of_retry = of_retry  # rows then count among those in quarantine, which were counted before
        self.canvases: dict[str, int] = {}  # worker -> in flight at most, since its device ran out of memory
        self._reasons: dict[Key, str] = {}  # why a piece failed last
        self._by: dict[Key, str] = {}  # and with which worker
        self._idle_deaths = self._search_deaths = 0
        self._unkept = False
        self._keep_at = 0.0

    def came_through(self, rows: int) -> None:
        """Something was committed, or a probe survived; rows that were completed."""
        self._idle_deaths = 0
        self._search_deaths = 0 if rows else self._search_deaths

    def probed(self) -> None:
        self._idle_deaths = self._search_deaths = 0
        self._unkept = True
        self.meter.retried("probe")

    def piece_failed(self, actor: Actor, failure: Failure) -> None:
        assert failure.place is not None
        piece = self.dispatch.running[actor.name][failure.place]
        self._reasons[piece.key] = reason = self.spec.hide(str(failure))
        self._by[piece.key] = actor.name
        again = self.dispatch.failed(actor.name, failure.place)
        self._unkept = True
        if again:
            self.meter.retried("shard_failed")
        self.run.event("shard_failed", shard=piece.shard.index, worker=actor.name, reason=reason, again=again)
        self.telling.went_wrong(f"{piece} failed: {reason.partition(': ')[2][:100]}")

    def worker_lost(self, actor: Actor, reason: str, why: Restart) -> None:
        """A worker is gone, its process killed: its pieces go to others.

        Raises RunFailed when workers are lost whatever they do.
        """
        reason = self.spec.hide(reason)  # it goes into attempts.json, and into the quarantine file of a poison row
        held = self.dispatch.held(actor.name)
        out_of_memory = why == "out_of_memory"
        searching = len(held) == 1 and self.dispatch.is_searched(held[0])
        self.meter.restarted(why)
        self.meter.retried("probe" if searching else "out_of_memory" if out_of_memory else "worker_lost", len(held))
        self._reasons.update((piece.key, reason) for piece in held)
        self._by.update((piece.key, actor.name) for piece in held)
        self._unkept |= bool(held)
        shards = [piece.shard.index for piece in held]
        self.run.event("worker_lost", worker=actor.name, reason=reason, shards=shards)
        if out_of_memory and actor.report.canvases > 1:
            self._halve(actor)
            return
        self.telling.went_wrong(f"{reason[:120]}; starting another")
        fate = self.dispatch.lost(actor.name, Blame("out_of_memory" if out_of_memory else "worker_killed", reason))
        if len(held) == 1:
            self._search(held[0], fate)
        if not held:
            self._idle_deaths += 1
            if self._idle_deaths >= IDLE_DEATHS:
                raise RunFailed(
                    f"{IDLE_DEATHS} workers in a row were lost before they did anything: {reason}."
                    + self._see(actor.name)
                )

    def worker_left(self, actor: Actor, preempted: bool) -> None:
        """A worker did what it was told to: nobody is at fault for what it left."""
        shards = [piece.shard.index for piece in self.dispatch.held(actor.name)]
        if preempted:  # and not told to by us, because the job ends
            self.meter.restarted("preempted")
            self.meter.retried("preempted", len(shards))
        self.dispatch.left(actor.name)
        self.run.event("worker_left", worker=actor.name, shards=shards)

    def keep(self, now: float, at_once: bool = False) -> None:
        """Write attempts.json when it has changed, but not all the time: it may be large."""
        if not self._unkept or (now < self._keep_at and not at_once):
            return
        started = time.monotonic()
        self.run.note_attempts(self.dispatch.tries)
        self._keep_at = now + (time.monotonic() - started) / KEEP_SHARE
        self._unkept = False

    # ---- when it is too much

    def check_ratio(self, ledger: Ledger) -> None:
        """RunFailed when more rows are in quarantine, or are known to come there, than the job allows."""
        plan, most = self.plan, self.spec.retry.max_failed_ratio
        quarantined = ledger.tally.quarantined
        if not self._of_retry:
            quarantined += self.dispatch.poison_rows * plan.samples
        if quarantined > most * plan.expected:
            raise RunFailed(
                f"{self.run.path}: {quarantined:,} of {plan.expected:,} rows are quarantined, more than "
                f"retry.max_failed_ratio {most:g} allows{self._commonest(ledger)}. See all that is committed: "
                f'dgbatch sql {self.run.path} "select error_code, count(*) from quarantine group by 1"'
            )

    def judge(self, committed: int) -> None:
        """RunFailed when pieces were given up."""
        if not self.dispatch.given_up:
            return
        key, piece = next(iter(self.dispatch.given_up.items()))
        shard, others = piece.shard, len(self.dispatch.given_up) - 1
        raise RunFailed(
            f"{piece} ({shard.file}, row group {shard.row_group}, rows {shard.first_row} to "
            f"{shard.first_row + shard.rows - 1}) failed {self.dispatch.tries[key].attempts} times"
            + (f", and {others} more shards did" if others else "")
            + f". Last reason: {self._reasons.get(key, 'unknown').rstrip('.')}. {committed:,} of "
            f"{len(self.plan.shards):,} shards are committed and stay so.{self._see(self._by.get(key))}"
        )

    # ---- inside

    def _see(self, worker: str | None) -> str:
        """Where people find what a worker said before it was lost."""
        return f"\nsee: dgbatch logs {shlex.quote(self.run.path)} --worker {worker}" if worker else ""

    def _halve(self, actor: Actor) -> None:
        """The device is short of memory: the worker that comes next has half the canvases in flight."""
        report, run = actor.report, self.run
        now = self.canvases[actor.name] = report.canvases // 2
        self.dispatch.short(actor.name)
        noted = run.canvases.get(report.device, {}).get("curve", [])
        run.note_canvases(report.device, now, report.curve or [CurvePoint(*point) for point in noted])
        run.event("out_of_memory", worker=actor.name, device=report.device, canvases=report.canvases, now=now)
        self.telling.went_wrong(
            f"{report.device} ran out of memory with {report.canvases} canvases in flight: worker {actor.name} goes on "
            f"with {now}"
        )

    def _search(self, piece: Piece, fate: Fate) -> None:
        """Tell how the search for the rows that kill goes on, and end the run when all that is tried dies."""
        search, index = self.dispatch.tries[piece.key].search, piece.shard.index
        if fate == "searching":
            self.run.event("searching", shard=index, rows=search.high - search.low)
            self.telling.went_wrong(f"{piece} kills its workers: looking for the row")
        elif fate == "poisoned":
            row = next(reversed(search.poison))
            blame, row_id = search.poison[row], self._id_of(piece, row)
            self.run.event("row_poisoned", shard=index, row=row, id=row_id, code=blame.code, reason=blame.reason)
            named = f"row {row}" if row_id is None else f"row {row_id!r}"
            self.telling.went_wrong(f"{named} of shard {index} kills its worker: it goes to quarantine")
            self.keep(time.monotonic(), at_once=True)
        self._search_deaths += search.on
        if self._search_deaths >= SEARCH_DEATHS:
            self.dispatch.acquit()
            self._unkept = True
            reason = self._reasons[piece.key]
            raise RunFailed(
                f"{SEARCH_DEATHS} workers in a row were lost, whichever rows they had: {reason}."
                + self._see(self._by.get(piece.key))
            )

    def _id_of(self, piece: Piece, row: int) -> str | None:
        if self._of_retry:
            return None
        try:
            return source.ids(piece.shard, self.spec.input)[row]
        except Exception:  # noqa: BLE001  # it is for people alone, and the input may be gone, or be somewhere else for the workers
            return None

    def _commonest(self, ledger: Ledger) -> str:
        """The commonest error code, and a row that has it; of many files, the last ones are enough."""
        seen: Counter[str] = Counter()
        example: dict[str, str] = {}
        for file in ledger.quarantine[-LOOKED_AT:]:
            try:
                table = from_bytes(
                    self.run.folder.get(file.name), self.spec.output.format, ("id", "error_code", "error_message")
                )
            except (OSError, ValueError):
                continue  # verify is who complains
            for row in table.to_pylist():
                seen[row["error_code"]] += 1
                example.setdefault(row["error_code"], f"row {row['id']!r}: {row['error_message']}")
        for (index, _, _), row, blame in self.dispatch.poison():
            seen[blame.code] += self.plan.samples
            example.setdefault(blame.code, f"row {row} of shard {index}: {blame.reason}")
        if not seen:
            return ""
        ((code, rows),) = seen.most_common(1)
        return f". Most often {code} ({rows:,} rows), for example {example[code][:300].rstrip('.')}"
