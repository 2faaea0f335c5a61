"""The page of `dgbatch diff` in a browser: it draws, complains of nothing, fits a phone, and runs no text of a row."""

from __future__ import annotations

import pytest

from dgbatch.runner.pages.comparison import Comparison, compare
from dgbatch.runner.pages.diff_page import render, write_page
from tests.browser import PHONE, browser
from tests.runner.conftest import make_job, prompts
from tests.runner.small_run import commit_all, new_run, write_attempt

__all__ = ["browser", "make_job"]

EVIL = "</pre><script>document.title = 'evil'</script><img src=x onerror=\"document.title='evil'\">"


@pytest.fixture
def found(make_job) -> Comparison:
    """Of two runs; the texts of the second one are markup, and a word without an end."""
    table = prompts(4)
    a = commit_all(new_run(make_job(table, "output.path=a", "input.id=id", "workers.shard_rows=2")))
    b = new_run(make_job(table, "output.path=b", "input.id=id", "workers.shard_rows=2", f"name=b{'b' * 90}"))
    for shard, text in zip(b.plan.shards, (EVIL, "w" * 900), strict=True):
        assert b.commit(write_attempt(b, shard, text=text))
    return compare(a, b)


def test_page_names_both_runs_and_marks_the_words(found):
    page = render(found)
    assert found.a.path in page and found.b.path in page
    assert page.count("<h3>") == 4 and page.count("<del>") == 4 and page.count("<ins>") == 4
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "http://" not in page and "https://" not in page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_draws_on_a_phone_and_a_desk_and_no_text_of_a_row_does_anything(found, tmp_path, browser, scheme):
    write_page(found, str(tmp_path / "diff.html"))
    for size in (PHONE, (1280, 900)):
        with browser.open(tmp_path / "diff.html", size, scheme) as sheet:
            assert (sheet.errors, sheet.requests, sheet.overflow) == ([], [], 0)
            assert sheet.page.title().endswith("· dgbatch diff")
            assert EVIL in sheet.page.locator("ins").all_inner_texts()
            widths = sheet.page.eval_on_selector_all(".split i", "all => all.map(each => each.offsetWidth)")
            assert len(widths) == 1 and widths[0] > 200  # all four rows have another text
            assert sheet.page.evaluate("getComputedStyle(document.body).colorScheme") != "none"
