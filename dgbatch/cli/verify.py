"""`dgbatch verify`: the proof that nothing was lost, doubled or changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dgbatch.cli.options import AsJson, RunFolder

if TYPE_CHECKING:
    from dgbatch.runner.verify import Verification


Replay = Annotated[
    int,
    typer.Option("--replay", metavar="N", min=0, help="Generate N rows again, chosen at random; compare their tokens."),
]


Repair = Annotated[
    bool, typer.Option("--repair", help="Forget the shards that are damaged, so that the next submit makes them anew.")
]


def verify(run: RunFolder, replay: Replay = 0, repair: Repair = False, json: AsJson = False) -> None:
    """Check a run by id against its input, and every file against its checksum.

    Exit code 4 when it does not hold; with --repair 5 while somebody works on the run.
    """
    from contextlib import nullcontext

    from dgbatch.cli.output import counting, plural, print_json, say, show
    from dgbatch.runner.repair import repair as forget
    from dgbatch.runner.replay import replay as generate_again
    from dgbatch.runner.run_folder import Run
    from dgbatch.runner.spec import hiding_secrets
    from dgbatch.runner.storage.lock import lock
    from dgbatch.runner.verify import verify as prove

    opened = Run.open(run)
    with hiding_secrets(opened.spec), lock(opened.path) if repair else nullcontext():
        with counting("shards verified") as tell:
            proof = prove(opened, tell)
        if replay:
            say("loading the checkpoint to generate rows again")
            with counting("rows generated again") as tell:
                generate_again(opened, replay, proof, on_progress=tell)
        forgotten = forget(opened, proof) if repair else []
    if json:
        print_json({**proof.to_json(), "forgotten": forgotten})
    else:
        show(equation(proof), *([proof.replay_line()] if replay else []))
        for kind, examples in proof.examples.items():
            show(*(f"  {kind}: {example}" for example in examples))
        if forgotten:
            show(
                f"It did not hold. {plural(len(forgotten), 'shard')} forgotten: submit the job again to make them anew."
            )
        elif not proof.holds:
            show(f"It does not hold. {remedy(proof, run)}")
    raise typer.Exit(0 if proof.holds else 4)


def remedy(proof: Verification, run: str) -> str:
    """What people can do about a run that does not hold."""
    from shlex import quote

    if proof.damaged:
        return (
            "Restore the files named above from a copy. Without one, let go of their shards and submit the job again, "
            f"which makes the same rows anew: dgbatch verify {quote(run)} --repair"
        )
    if proof.checksum_errors:
        return "Remove the files named above, or restore them from a copy."
    if proof.replay_mismatches:
        return "Something that decides tokens is not what it was: compare device, driver and versions with run.json."
    return "Submit its job again: what is missing is made, and it is verified once more."


def equation(proof: Verification) -> str:
    """in 1,000 = ok 997 + quarantined 3, missing 0, duplicate 0, checksum errors 0."""
    sign = "=" if proof.input == proof.ok + proof.quarantined else "!="
    faults = f"missing {proof.missing:,}, duplicate {proof.duplicate:,}, checksum errors {proof.checksum_errors:,}"
    if proof.unexpected:
        faults += f", unexpected {proof.unexpected:,}"
    return f"in {proof.input:,} {sign} ok {proof.ok:,} + quarantined {proof.quarantined:,}, {faults}"
