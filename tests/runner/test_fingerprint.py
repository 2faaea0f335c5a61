"""Two jobs are the same one when they give the same rows and tokens."""

from __future__ import annotations

from dgbatch.runner.fingerprint import changed_fields, fingerprint
from dgbatch.runner.plan import make_plan


def test_changed_fields_are_those_that_count(make_job, some_rows):
    old = make_job(some_rows(1)).public()
    new = make_job(None, "generation.seed=1", "prompt.system=Be brief.", "workers.count=4", "name=other").public()
    assert changed_fields(old, old) == []
    assert changed_fields(old, new) == [("prompt.system", None, "Be brief."), ("generation.seed", 0, 1)]


def test_fingerprint_follows_what_changes_rows_and_nothing_else(make_job, some_rows):
    spec = make_job(some_rows(5))
    base = fingerprint(spec, make_plan(spec))

    def of(*overrides: str) -> str:
        changed = make_job(None, *overrides)
        return fingerprint(changed, make_plan(changed))

    same = ["name=x", "workers.count=3", "workers.canvases=2", "retry.shard_attempts=9", "output.path=elsewhere"]
    same.append("output.films=0")
    assert {of(override) for override in same} == {base}
    other = [
        "generation.seed=1", "generation.samples=2", "generation.stop=[a]", "prompt.template=x {{ prompt }}",
        "prompt.thinking=true", "prompt.system=hi", "input.id=id", "input.limit=5", "input.where=n < 9",
        "generation.greedy=true", "generation.suppress_tokens=[4]", "generation.overrides=answer",
        "output.metrics=true",
        "workers.shard_rows=2", "output.format=arrow", "output.columns=[n]", "model.dtype=float32",
        "model.checkpoint=a/b", "accept.rules=[{equals: answer}]",
    ]  # fmt: skip
    found = [of(override) for override in other]
    assert len({base, *found}) == len(found) + 1
    changed = make_job(some_rows(6))
    assert fingerprint(changed, make_plan(changed)) != base
