"""The report says what is so, for every state of a run, and nothing from data becomes markup."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest

from dgbatch.errors import OutputError, RunFailed
from dgbatch.runner.layout import REPORT
from dgbatch.runner.pages import page
from dgbatch.runner.pages.page import MARK, report_at_the_end, write_report
from dgbatch.runner.run_folder import Run
from dgbatch.runner.storage.lock import lock
from dgbatch.runner.submit import finish
from tests.runner.conftest import MakeJob
from tests.runner.made_up import made_up_job, made_up_run
from tests.runner.small_run import commit_all, new_run

Rows = Callable[[int], pa.Table]
EVIL = "<script>document.title='evil'</script><img src=x onerror=alert(1)>"


class Text(HTMLParser):
    """The text of each section by its id, as a reader sees it."""

    def __init__(self, source: str):
        super().__init__()
        self.sections: dict[str, str] = {}
        self.scripts = 0
        self._id, self._hidden = "top", False
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._id = str(dict(attrs)["id"]) if tag == "section" else self._id
        self._hidden = tag in ("script", "style") or self._hidden
        self.scripts += tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._hidden = self._hidden and tag not in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            words = " ".join(data.split())
            self.sections[self._id] = f"{self.sections.get(self._id, '')} {words}".strip()


def read(run: Run, **options: object) -> Text:
    written = write_report(run, **options)  # type: ignore[arg-type]
    return Text(Path(written.path).read_text(encoding="utf-8"))


def proven(run: Run) -> Run:
    finish(run, run.spec)
    return run


def test_a_completed_run_says_what_came_out_and_what_verify_said(make_job: MakeJob, some_rows: Rows):
    spec = make_job(some_rows(1000), "input.id=id", "accept.rules=[{equals: answer}]", "workers.shard_rows=100")
    text = read(proven(commit_all(new_run(spec), bad=lambda row_id: row_id in ("r1", "r2"))))
    summary = text.sections["summary"]
    assert "998 rows completed of 1,000" in summary
    assert "100 % accepted 998 of 998" in summary
    assert "2 in quarantine 0.2 %" in summary
    assert "Verified. in 1,000 = ok 998 + quarantined 2; missing 0, duplicate 0" in summary
    assert "prompt_too_long" in text.sections["quarantine"]
    assert "What is 1?" in text.sections["quarantine"]
    assert "equals_answer 998 100 %" in text.sections["quality"]
    assert "This run" not in text.sections["top"]


def test_a_run_at_work_says_so_and_how_far_it_is(make_job: MakeJob, some_rows: Rows):
    run = new_run(make_job(some_rows(10), "input.id=id", "workers.shard_rows=4"))
    with lock(run.path):
        run.event("started")
        commit_all(run, shards=run.plan.shards[:1])
        text = read(run)
    assert "in progress" in text.sections["top"]
    assert "This run is at work. The page shows the 4 of 10 rows" in text.sections["top"]
    assert "Not verified" in text.sections["summary"]


def test_a_failed_run_says_why_at_the_top(make_job: MakeJob, some_rows: Rows):
    run = commit_all(new_run(make_job(some_rows(10), "input.id=id", "workers.shard_rows=4")))
    run.event("started")
    run.event("failed", reason="the disk is full")
    text = read(run)
    assert "This run failed : the disk is full" in text.sections["top"]
    assert "failed : the disk is full" in text.sections["events"]


def test_a_run_whose_proof_failed_says_that_it_does_not_hold(make_job: MakeJob, some_rows: Rows):
    run = new_run(make_job(some_rows(4), "input.id=id"))
    run.event("started")
    run.event("failed", reason="out: the dataset does not hold: in 4 is not ok 3")
    assert "The proof fails." in read(run).sections["summary"]


def test_a_cancelled_run_says_how_far_it_came(make_job: MakeJob, some_rows: Rows):
    run = commit_all(new_run(make_job(some_rows(10), "input.id=id", "workers.shard_rows=4")), shards=[])
    run.event("started")
    run.event("cancelled", reason="interrupted")
    text = read(run)
    assert "This run was cancelled with 0 of 10 rows done" in text.sections["top"]
    assert "Nothing is committed yet." in text.sections["throughput"]
    assert "No row is completed." in text.sections["steps"]


def test_a_run_of_nothing_but_quarantine_says_so(make_job: MakeJob, some_rows: Rows):
    run = commit_all(new_run(make_job(some_rows(4), "input.id=id")), bad=lambda row_id: True)
    text = read(run)
    assert "0 rows completed of 4 4 in quarantine 100 %" in text.sections["summary"]
    assert "No row is completed." in text.sections["quality"]
    assert "prompt_too_long 4 100 %" in text.sections["quarantine"]


def test_a_job_without_rules_is_not_judged(make_job: MakeJob, some_rows: Rows):
    text = read(commit_all(new_run(make_job(some_rows(4), "input.id=id"))))
    assert "accepted" not in text.sections["summary"]
    assert "The job has no accept rules" in text.sections["quality"]


def test_samples_are_counted_one_by_one(tmp_path: Path):
    text = read(made_up_run(made_up_job(tmp_path, 100, generation__samples="3")))
    assert "297 rows completed of 300 (100 × 3 samples)" in text.sections["summary"]
    assert "id sample steps" in text.sections["slowest"]


def test_time_shares_are_told_where_workers_left_them_and_missed_where_not(tmp_path: Path):
    text = read(made_up_run(made_up_job(tmp_path / "a", 1000)))
    assert "wait output" in text.sections["time"]
    assert "7.8 tiles in a pass" in text.sections["time"]
    assert "peak memory 70.0 GiB" in text.sections["time"]
    assert "no record of it" in read(made_up_run(made_up_job(tmp_path / "b", 100), events=False)).sections["time"]


def test_where_seconds_come_from_is_said(tmp_path: Path, make_job: MakeJob, some_rows: Rows):
    measured = read(made_up_run(made_up_job(tmp_path / "a", 100, output__metrics="true")))
    assert "By prefill_s + denoise_s" in measured.sections["slowest"]
    unmeasured = read(made_up_run(made_up_job(tmp_path / "b", 100)))
    assert "By denoising steps" in unmeasured.sections["slowest"]
    assert "How long each row took is not known" in unmeasured.sections["lengths"]
    recorded = read(commit_all(new_run(make_job(some_rows(4), "input.id=id"))))
    assert "histograms in the commit records" in recorded.sections["lengths"]


def test_money_is_told_when_a_price_is_given(tmp_path: Path):
    run = made_up_run(made_up_job(tmp_path, 1000))
    assert "Price" not in read(run).sections["cost"]
    written = write_report(run, price_per_gpu_hour=3.0)
    text = Text(Path(written.path).read_text())
    price = 3.0 * written.figures.cost.gpu_hours
    assert f"Price {price:.2f} at 3 per GPU-hour" in text.sections["cost"]
    assert f"{1000 * price / 990:.4g}" in text.sections["cost"]


def test_a_run_made_twice_is_told_apart_from_a_night(tmp_path: Path):
    text = read(made_up_run(made_up_job(tmp_path, 1000)))
    assert "in 2 submits" in text.sections["summary"]
    assert "Time in which nobody worked on the run is left out" in text.sections["throughput"]
    assert "A triangle marks the loss of a worker." in text.sections["throughput"]
    assert "worker lost : worker w2: its node <gone-7> went away" in text.sections["events"]


def test_nothing_from_data_becomes_markup(tmp_path: Path):
    table = pa.table({"id": [EVIL, "b"], "prompt": [EVIL, EVIL], f"answer {EVIL}": [EVIL, "x"]})
    job = {"version": 1, "name": "evil", "model": {"checkpoint": "demo"}, "input": {"path": "in.parquet", "id": "id"}}
    job |= {
        "prompt": {"template": EVIL},
        "output": {"path": "out"},
        "accept": {"rules": [{"equals": f"answer {EVIL}"}]},
    }
    import pyarrow.parquet as pq

    from dgbatch.runner.spec import load_job

    pq.write_table(table, tmp_path / "in.parquet")
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    run = commit_all(new_run(load_job(tmp_path / "job.yaml")), bad=lambda row_id: row_id == "b")
    run.event("started", command=f"dgbatch submit {EVIL}")
    run.event("worker_ready", worker=EVIL, device=EVIL, where=EVIL)
    run.event("worker_stats", worker=EVIL, seconds={EVIL: 1.0})
    run.event("worker_lost", worker=EVIL, reason=EVIL)
    run.event("failed", reason=EVIL)
    source = Path(write_report(run).path).read_text()
    assert EVIL not in source
    assert "<img" not in source
    text = Text(source)
    assert text.scripts == 3  # the figures, the library and ours
    for section in ("slowest", "quarantine", "quality", "again", "events", "top", "time"):
        assert EVIL in text.sections[section], section
    assert html.unescape(html.escape(EVIL)) == EVIL


def test_what_a_variable_holds_is_nowhere_in_the_page(
    make_job: MakeJob, some_rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BUCKET", str(tmp_path / "s3cret-place"))
    run = commit_all(new_run(make_job(some_rows(4), "input.id=id", "output.path=${BUCKET}/out")))
    source = Path(write_report(run, out=str(tmp_path / "page.html")).path).read_text()
    assert "s3cret-place" not in source
    assert "${BUCKET}/out" in source


def test_the_page_forbids_itself_the_network(tmp_path: Path):
    source = Path(write_report(made_up_run(made_up_job(tmp_path, 100))).path).read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', source)
    assert policy
    assert "default-src 'none'" in policy[1]
    assert "http" not in policy[1]
    outside = [
        tag for tag in re.findall(r"<(?:link|script|img|iframe)\b[^>]*>", source) if "src=" in tag or "href=" in tag
    ]
    assert outside == ['<link rel="icon" href="data:,">']


def test_a_report_is_written_over_and_nothing_else_is(tmp_path: Path):
    run = made_up_run(made_up_job(tmp_path, 100))
    out = tmp_path / "pages" / "report.html"
    first = write_report(run, out=str(out))
    assert out.read_text().startswith("<!doctype html>")
    assert MARK in out.read_text()[: page.HEAD_BYTES]
    assert write_report(run, out=str(out)).bytes == pytest.approx(first.bytes, abs=100)
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]
    out.write_text("my thesis")
    with pytest.raises(OutputError, match="is no report of dgbatch"):
        write_report(run, out=str(out))
    assert out.read_text() == "my thesis"
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(run, out=str(tmp_path))


def test_a_submit_that_cannot_write_its_report_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = made_up_run(made_up_job(tmp_path, 100))
    assert report_at_the_end(run) == str(run.folder.at(REPORT))

    def fail(run: Run, found: object) -> str:
        raise RuntimeError("no plots today")

    monkeypatch.setattr(page, "render", fail)
    assert report_at_the_end(run) == ""
    assert run.events()[-1]["kind"] == "report_failed"
    assert run.events()[-1]["reason"] == "RuntimeError: no plots today"
    monkeypatch.setattr(Run, "event", lambda *args, **fields: (_ for _ in ()).throw(RunFailed("disk full")))
    assert report_at_the_end(run) == ""


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [
        (0, 10, "0 %"),
        (1, 3, "33.3 %"),
        (10, 10, "100 %"),
        (9_999, 10_000, "> 99.9 %"),
        (1, 100_000, "< 0.1 %"),
        (1, 0, "–"),
    ],
)
def test_shares_are_never_rounded_to_all_or_nothing(part, whole, said):
    assert page.share(part, whole) == said


def test_numbers_are_as_people_write_them():
    assert [page.number(value) for value in (1234567, 1.5, 13.97, 0.01234, 123.4, None, 3.0)] == [
        "1,234,567", "1.50", "14.0", "0.0123", "123", "–", "3",
    ]  # fmt: skip
    assert [page.hours(value) for value in (0, 0.01234, 12.345)] == ["0", "0.012", "12.35"]


def test_an_error_that_names_a_file_whose_name_is_no_text_is_told(make_job: MakeJob, some_rows: Rows):
    run = new_run(make_job(some_rows(4), "input.id=id"))
    run.event("failed", reason="prompts-\udcff.parquet: no such file")
    assert "prompts-?.parquet: no such file" in read(run).sections["top"]
