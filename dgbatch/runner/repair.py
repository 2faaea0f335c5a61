"""What `verify --repair` does: shards whose files are not as written are forgotten, and a submit makes them anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dgbatch.runner.commits import list_records, shard_of
from dgbatch.runner.terminal.plain import plural

if TYPE_CHECKING:
    from dgbatch.runner.run_folder import Run
    from dgbatch.runner.verify import Verification


def repair(run: Run, proof: Verification) -> list[int]:
    """Take back the records of damaged shards, all rounds of them; returns the shards.

    The run is not complete any more. Damaged files stay where they are, named by no record, until the run is finalised.
    The caller has held the lock since before the proof was made: what somebody commits meanwhile may be whole. Raises
    RunFailed where a record cannot be removed.
    """
    damaged = sorted(proof.damaged)
    if damaged:
        run.take_back([name for name in list_records(run.folder) if shard_of(name) in proof.damaged])
        told = f"{plural(len(damaged), 'damaged shard')} forgotten; submit again to make them anew"
        run.event("repaired", shards=damaged, reason=told)
    return damaged
