"""The numbers of a report are those of the dataset, as SQL, NumPy and the records have them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dgbatch.errors import OutputError
from dgbatch.runner.catalog import sql
from dgbatch.runner.layout import EVENTS
from dgbatch.runner.pages import parts
from dgbatch.runner.pages.figures import Figures, figures
from dgbatch.runner.run_folder import Run
from dgbatch.runner.storage.lock import lock
from dgbatch.runner.sums import NOTHING
from tests.runner.conftest import MakeJob
from tests.runner.made_up import NIGHT_S, made_up_job, made_up_run
from tests.runner.small_run import commit_all, new_run, write_attempt

Rows = Callable[[int], pa.Table]
RULES = "[{equals: answer}]"


@pytest.fixture(scope="module", params=["parquet", "arrow"])
def large(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Figures]:
    """2,000 rows in two samples, read in parts of some shards."""
    folder = tmp_path_factory.mktemp("large")
    job = made_up_job(
        folder,
        2_000,
        output__format=request.param,
        output__metrics="true",
        accept__rules=RULES,
        generation__samples="2",
    )
    run = made_up_run(job)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts.parts, "__defaults__", (300, 4))
        return run, figures(run, price_per_gpu_hour=2.5)


def column(run: Run, query: str) -> np.ndarray:
    return sql(run, f"select {query} as value from completions")["value"].to_numpy()


def test_figures_are_read_in_parts(large, monkeypatch):
    run, _ = large
    records = run.ledger().data
    sizes = [len(part) for part in parts.parts(records, rows=300, most=4)]
    assert sizes == [3] * 13 + [1]  # of 97 to 100 rows each
    assert [len(part) for part in parts.parts(records, rows=10**9, most=16)] == [16, 16, 8]
    assert [file for part in parts.parts(records, rows=1) for file in part] == records


@pytest.mark.parametrize(
    ("name", "query"),
    [("prompt_tokens", "prompt_tokens"), ("tokens", "tokens"), ("tokens_per_forward", "tokens / denoise_steps")],
)
def test_distributions_are_those_of_numpy(large, name, query):
    run, found = large
    values, shown = column(run, query), getattr(found.distributions, name)
    assert shown.total == len(values) == found.status.tally.ok
    assert shown.mean == pytest.approx(values.mean(), rel=0.002)
    assert shown.median == pytest.approx(np.quantile(values, 0.5, method="inverted_cdf"), abs=0.01)
    assert shown.p95 == pytest.approx(np.quantile(values, 0.95, method="inverted_cdf"), abs=0.01)
    assert shown.most == pytest.approx(values.max(), abs=0.01)


def test_steps_count_once_for_each_canvas(large):
    run, found = large
    steps, canvases = column(run, "denoise_steps / canvases"), column(run, "canvases")
    assert found.distributions.steps_per_canvas.total == found.status.tally.canvases == canvases.sum()
    of_each = np.repeat(np.round(steps), canvases)
    assert found.distributions.steps_per_canvas.median == np.quantile(of_each, 0.5, method="inverted_cdf")


def test_seconds_are_counted_to_half_a_percent(large):
    run, found = large
    values = column(run, "prefill_s + denoise_s")
    assert found.distributions.seconds_from == "columns"
    assert found.distributions.seconds.median == pytest.approx(np.median(values), rel=0.005)
    assert found.distributions.seconds.most == pytest.approx(values.max(), rel=0.005)


def test_quality_is_that_of_the_columns(large):
    run, found = large
    asked = "select finish_reason, count(*) from completions group by 1"
    assert found.counts.finish == {row[0]: row[1] for row in zip(*sql(run, asked).to_pydict().values(), strict=True)}
    passed = sql(run, "select count(*) filter (rules.equals_answer), sum(revised_tokens) from completions").to_pylist()
    assert [found.counts.passed["equals_answer"], found.revised_tokens] == list(passed[0].values())
    assert found.counts.passed["equals_answer"] == found.status.tally.accepted


def test_quarantine_has_counts_and_examples_of_each_reason(large):
    run, found = large
    asked = sql(run, "select error_code, count(*) from quarantine group by 1")
    assert found.counts.quarantined == dict(zip(*asked.to_pydict().values(), strict=True))
    assert sum(found.counts.quarantined.values()) == found.status.tally.quarantined == 40
    first = found.counts.examples["prompt_too_long"][0]
    assert (first.id, first.attempts, first.row) == ("q0000099", 1, "prompt: What is 99 + 1?\nanswer: 100")
    assert all(len(examples) <= 3 for examples in found.counts.examples.values())


def test_slowest_rows_are_those_of_all_parts(large):
    run, found = large
    asked = "select id, sample from completions order by prefill_s + denoise_s desc, id, sample limit 10"
    assert [(row.id, row.sample) for row in found.counts.slowest] == [
        (row["id"], row["sample"]) for row in sql(run, asked).to_pylist()
    ]


def test_throughput_adds_up_to_the_dataset(large):
    _, found = large
    width, rates = found.throughput.width_s, found.throughput.tokens_per_s
    last = found.work_s - width * (len(rates) - 1)
    assert sum(rates[:-1]) * width + rates[-1] * last == pytest.approx(found.status.tally.tokens)
    assert [round(rest) for _, rest in found.throughput.restarts] == [pytest.approx(NIGHT_S, abs=60)]
    assert [worker for _, worker in found.throughput.losses] == ["w2"]
    assert found.work_s < 200


def test_cost_is_the_workers_time(large):
    _, found = large
    assert len(found.lives) == 7
    assert found.cost.worker_hours == pytest.approx(sum(life.seconds for life in found.lives) / 3600)
    assert found.cost.gpu_hours == found.cost.worker_hours  # an H200 each
    assert found.cost.price == pytest.approx(2.5 * found.cost.gpu_hours)


def test_gpus_of_each_worker_are_those_of_the_job(tmp_path):
    run = made_up_run(made_up_job(tmp_path, 100, workers__gpus="0.5"))
    cost = figures(run).cost
    assert cost.gpu_hours == pytest.approx(cost.worker_hours / 2)
    assert cost.price is None


def test_workers_on_cpus_cost_no_gpu_hours(tmp_path: Path):
    run = made_up_run(made_up_job(tmp_path, 100))
    told = Path(run.path, EVENTS)
    told.write_text(told.read_text().replace("NVIDIA H200", "cpu"))
    cost = figures(run, 2.0).cost
    assert cost.worker_hours > 0
    assert (cost.gpu_hours, cost.price, cost.from_events) == (0.0, 0.0, True)


def test_a_run_without_commits_has_figures(make_job: MakeJob, some_rows: Rows):
    run = new_run(make_job(some_rows(4), "input.id=id", f"accept.rules={RULES}"))
    found = figures(run)
    assert (found.status.state, found.throughput, found.distributions.tokens) == ("failed", None, None)
    assert found.counts.slowest == []
    assert found.per_s(10) is None
    with lock(run.path):
        run.event("started")
        assert figures(run).status.state == "in_progress"


def test_a_run_whose_rows_are_all_in_quarantine_has_figures(make_job: MakeJob, some_rows: Rows):
    run = commit_all(new_run(make_job(some_rows(4), "input.id=id")), bad=lambda row_id: True)
    found = figures(run)
    assert found.counts.quarantined == Counter(prompt_too_long=4)
    assert (found.distributions.tokens, found.counts.finish) == (None, Counter())
    assert found.throughput.tokens_per_s[0] == 0.0


def test_seconds_come_from_the_records_where_rows_do_not_have_them(make_job: MakeJob, some_rows: Rows):
    found = figures(commit_all(new_run(make_job(some_rows(9), "input.id=id", "workers.shard_rows=4"))))
    assert found.distributions.seconds_from == "records"
    assert found.distributions.seconds.total == 9
    assert found.revised_tokens == 0
    assert [commit.shard for commit in found.slowest_shards] == [2, 0, 1]  # 0.5 s each, for 1, 4 and 4 rows


def test_records_without_sums_say_nothing_of_seconds(tmp_path):
    found = figures(made_up_run(made_up_job(tmp_path, 100)))
    assert (found.distributions.seconds, found.distributions.seconds_from) == (None, "")
    assert found.revised_tokens is None


def test_a_file_that_is_gone_is_named(tmp_path):
    run = made_up_run(made_up_job(tmp_path, 100))
    gone = Path(run.path, run.ledger().data[0].name)
    gone.unlink()
    with pytest.raises(OutputError, match=gone.name):
        figures(run)


def test_columns_with_any_name_are_quoted(make_job: MakeJob):
    odd = pa.table({"id": ["a"], 'an "odd" name': ["x"], "it's": ["y"], "prompt": ["z"]})
    rules = '--set accept.rules=[{equals: "it\'s"}]'.removeprefix("--set ")
    run = new_run(make_job(odd, "input.id=id", rules))
    commit_all(run)
    assert figures(run).counts.passed == {"equals_it's": 0}
    lost = new_run(make_job(odd, "input.id=id", rules, "output.path=lost"))
    commit_all(lost, bad=lambda row_id: True)
    assert figures(lost).counts.examples["prompt_too_long"][0].row.startswith('an "odd" name: x')


def test_a_file_that_is_damaged_is_an_error_that_says_how_to_find_it(tmp_path):
    run = made_up_run(made_up_job(tmp_path, 100))
    data = Path(run.path, run.ledger().data[0].name)
    data.write_bytes(data.read_bytes()[:-200])
    with pytest.raises(OutputError, match=rf"the run cannot be read: .*dgbatch verify {run.path}"):
        figures(run)


def test_self_corrections_are_not_told_where_some_records_do_not_say(make_job: MakeJob, some_rows: Rows):
    run = new_run(make_job(some_rows(8), "input.id=id", "workers.shard_rows=4"))
    first, second = run.plan.shards
    assert run.commit(write_attempt(run, first))
    assert run.commit(replace(write_attempt(run, second), sums=NOTHING))
    assert figures(run).revised_tokens is None
