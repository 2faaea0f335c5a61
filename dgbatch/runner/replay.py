"""Rows of a run, chosen at random, generated again and held against the dataset token for token.

verify.py proves that the files are what was written; this asks whether the model wrote it. One engine, in this process.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from dgbatch.errors import OutputError, RowError
from dgbatch.records import Completion, EngineConfig, Prompt, Rejection
from dgbatch.runner import source
from dgbatch.runner.model import ENGINE, load_engine
from dgbatch.runner.prompts import Renderer
from dgbatch.runner.verify import Key, Verification, believable, label, read_file

if TYPE_CHECKING:
    from dgbatch.runner.commits import FileRecord
    from dgbatch.runner.plan import Shard
    from dgbatch.runner.run_folder import Run

CANVASES = 8  # where the job leaves it open: any number gives the same tokens, so none has to be measured
COLUMNS = ("id", "sample", "token_ids")

Tokens = Sequence[int]


def replay(
    run: Run,
    count: int,
    found: Verification,
    seed: int | None = None,
    engine: str = ENGINE,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Generate `count` rows of the dataset again, or all where it has fewer, and note in `found` those that differ.

    seed: decides which rows; None takes others each time. on_progress: called with (rows replayed, rows to replay).
    Raises OutputError where the model or the device is not the one that the run was made with.
    """
    files = [(commit.shard, commit.data) for commit in believable(run, Verification()).counted if commit.data]
    count = min(count, sum(file.rows for _, file in files))
    if count == 0:
        return
    model = load_engine(engine, run.spec, _config(run))
    _refuse_another(run, model)
    again = _Replay(run, found)
    before = found.replayed
    for result in model.generate(again.prompts(chosen(files, count, random.Random(seed)))):
        again.compare(result)
        if on_progress is not None:
            on_progress(found.replayed - before, count)


def _config(run: Run) -> EngineConfig:
    """What a worker's engine is told. A run that was made on CPUs alone is replayed on one."""
    spec = run.spec
    on_cpu = spec.workers.gpus == 0 or run.canvases.keys() == {"cpu"}
    return EngineConfig(
        canvases=CANVASES if spec.workers.canvases == "auto" else spec.workers.canvases,
        device="cpu" if on_cpu else "auto",
        dtype=spec.model.dtype,
        threads=1,  # as crew.py has it on a CPU; on a GPU it decides nothing
    )


def _refuse_another(run: Run, model: Any) -> None:
    name, made_with = run.spec.model.checkpoint, run.info.get("model", {}).get("checksum")
    if made_with and model.model_checksum != made_with:
        raise OutputError(
            f"{run.path}: this run was made with a checkpoint of checksum {made_with[:12]}, and the one at {name} has "
            f"{model.model_checksum[:12]}. Put the old files back to replay it, or verify without --replay."
        )
    if run.canvases and model.device_name not in run.canvases:
        raise OutputError(
            f"{run.path}: this run was made on {', '.join(run.canvases)}, and this machine has {model.device_name}, "
            "which rounds otherwise and may write other tokens. Replay it on such a device, or verify without --replay."
        )


def chosen(
    files: Sequence[tuple[int, FileRecord]], count: int, dice: random.Random
) -> Iterator[tuple[int, FileRecord, list[int]]]:
    """(shard, its data file, positions in it) of `count` of all rows, each set of them as likely as any other.

    In the order of the files and holding one file's positions at a time, so memory does not grow with the run.
    """
    left = sum(file.rows for _, file in files)
    for shard, file in files:
        positions = []
        for position in range(file.rows):
            if dice.random() * left < count:
                positions.append(position)
                count -= 1
            left -= 1
        if positions:
            yield shard, file, positions


class _Replay:
    """Makes the prompts of the chosen rows, and knows what each of them is to become."""

    def __init__(self, run: Run, found: Verification):
        self.run = run
        self.found = found
        self._renderer = Renderer(run.spec, run.plan.schema.names)
        self._due: dict[Key, Tokens] = {}  # of the prompts that are in the engine

    def prompts(self, picks: Iterable[tuple[int, FileRecord, list[int]]]) -> Iterator[Prompt]:
        shards = {shard.index: shard for shard in self.run.plan.shards}
        for index, file, positions in picks:
            table = read_file(self.run, file, "data", [], COLUMNS)
            if table is None or table.num_rows != file.rows:
                for position in positions:
                    self._differs(f"row {position} of {file.name}", "cannot be read")
                continue
            rows = table.take(positions).to_pylist()
            yield from self._rendered(shards[index], {(row["id"], row["sample"]): row["token_ids"] for row in rows})

    def compare(self, result: Completion | Rejection) -> None:
        key = (result.id, result.sample)
        tokens = self._due.pop(key)
        if isinstance(result, Rejection):
            self._differs(label(key), f"{result.error_code}: {result.error_message}")
        elif (difference := _difference(tokens, result.token_ids)) is not None:
            self._differs(label(key), difference)
        else:
            self.found.replayed += 1

    def _rendered(self, shard: Shard, stored: dict[Key, Tokens]) -> Iterator[Prompt]:
        """The prompts of these rows, as worker.py makes them from the input."""
        for row_id, row in source.rows(shard, self.run.spec.input, self._renderer.columns):
            for sample in range(self.run.plan.samples):
                key = (row_id, sample)
                if key not in stored:
                    continue
                self._due[key] = stored.pop(key)
                try:
                    prompt = self._renderer.render(row_id, row, sample)
                except RowError as error:
                    self.compare(Rejection(row_id, sample, error.code, error.message))
                else:
                    yield prompt
        for key in stored:
            self._differs(label(key), "the input has no such row in its shard")

    def _differs(self, row: str, how: str) -> None:
        self.found.replayed += 1
        self.found.count("replay_mismatches", [f"{row}: {how}"])


def _difference(was: Tokens, now: Tokens) -> str | None:
    """Where two completions part, counted from 1 as in SQL; None where they are the same."""
    for number, (old, new) in enumerate(zip_longest(was, now, fillvalue="none"), 1):
        if old != new:
            return f"token {number} is {old}, generated again {new}"
    return None
