"""The report in a real browser: its plots are drawn without a network, on a phone too, by day and by night."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dgbatch.runner.filming import film_bytes
from dgbatch.runner.layout import FILMS
from dgbatch.runner.pages.page import write_report
from tests.browser import DESKTOP, PHONE, Chromium, Sheet
from tests.fake_engine import text_film
from tests.runner.made_up import made_up_job, made_up_run
from tests.runner.small_run import completion

PLOTS = (
    "tokens-per-s",
    "rows-per-s",
    "phases",
    "steps-per-canvas",
    "tokens-per-forward",
    "prompt-tokens",
    "tokens",
    "seconds",
)
DRAWN = f"document.documentElement.dataset.drawn == {len(PLOTS)}"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    rules, text = "[{equals: answer}]", "<script>throw 1</script>" + "a" * 500
    job = made_up_job(folder, 1_000, output__metrics="true", accept__rules=rules, generation__samples="2")
    run = made_up_run(job, bad_text=text)
    run.folder.put_if_absent(
        f"{FILMS}/000000.json", film_bytes(0, "say yes", completion(text="yes"), text_film("yes", 5))
    )
    return Path(write_report(run, price_per_gpu_hour=2.0).path)


@pytest.fixture(scope="module")
def sheet(report: Path, browser: Chromium) -> Iterator[Sheet]:
    """One open page for all tests that only look at it."""
    with browser.open(report) as opened:
        opened.wait(DRAWN)
        yield opened


@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (PHONE, "light"), (PHONE, "dark")])
def test_plots_are_drawn_without_a_network_or_a_complaint(report: Path, browser: Chromium, size, scheme):
    with browser.open(report, size, scheme) as sheet:
        sheet.wait(DRAWN)
        for name in PLOTS:
            shapes = sheet.page.locator(f"#{name} .plot-container path").count()
            assert shapes >= 3, f"{name} is empty"
            assert sheet.page.locator(f"#{name}").bounding_box()["width"] <= size[0]
        assert sheet.errors == []
        assert sheet.requests == []
        assert sheet.overflow == 0


def test_bars_are_as_high_as_the_counts(sheet: Sheet):
    drawn = sheet.page.evaluate("document.getElementById('tokens').data[0].y")
    assert sum(drawn) == 1_980  # rows in data: 1,000 in two samples, less one in a hundred
    boxes = sheet.page.evaluate(
        "[...document.querySelectorAll('#tokens .point path')].map((bar) => bar.getBBox().height)"
    )
    assert len(boxes) == len([height for height in drawn if height])
    assert max(boxes) / sum(boxes) == pytest.approx(max(drawn) / sum(drawn), rel=0.05)  # whole pixels


def test_a_pointer_over_a_bar_says_what_it_counts(sheet: Sheet):
    sheet.page.locator("#steps-per-canvas").scroll_into_view_if_needed()
    sheet.page.locator("#steps-per-canvas .point path").nth(5).hover(force=True)
    sheet.wait("document.querySelector('#steps-per-canvas .hovertext')")
    assert "canvases" in sheet.page.locator("#steps-per-canvas .hovertext").text_content()


def test_colours_follow_the_night(report: Path, browser: Chromium):
    with browser.open(report) as sheet:
        sheet.wait(DRAWN)
        ink = "getComputedStyle(document.querySelector('#tokens .point path')).fill"
        paper = "getComputedStyle(document.body).backgroundColor"
        by_day = sheet.page.evaluate(f"[{ink}, {paper}]")
        sheet.page.emulate_media(color_scheme="dark")
        sheet.wait(f"{ink} !== '{by_day[0]}'")
        by_night = sheet.page.evaluate(f"[{ink}, {paper}]")
        assert [light(each) for each in (*by_day, *by_night)] == [False, True, True, False]


def light(colour: str) -> bool:
    return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")) > 3 * 128


def test_the_summary_fits_on_a_screen(sheet: Sheet):
    sheet.page.evaluate("scrollTo(0, 0)")
    box = sheet.page.locator("#summary").bounding_box()
    assert box["y"] + box["height"] <= DESKTOP[1]


def test_the_film_plays_within_the_page(sheet: Sheet):
    sheet.page.locator(".film-slider").fill("0")
    sheet.wait("document.querySelector('.film').dataset.frame === '0'")
    sheet.page.locator(".film-play").click()
    sheet.wait("Number(document.querySelector('.film').dataset.frame) >= 2")
    assert sheet.errors == []


def test_text_of_rows_is_shown_as_text(sheet: Sheet):
    sheet.page.locator("#quarantine summary").first.click()
    assert "<script>throw 1</script>" in sheet.page.locator("#quarantine article").first.inner_text()
    assert sheet.errors == []


def test_the_job_is_copied_with_a_button(report: Path, browser: Chromium):
    with browser.open(report) as sheet:
        button = sheet.page.locator("[data-copy=job]")
        button.click()
        sheet.wait("document.querySelector('[data-copy=job]').textContent !== 'Copy'")
        assert sheet.page.evaluate("getSelection().toString()").startswith("version: 1")


def test_a_browser_that_cannot_unpack_says_so_in_place_of_each_plot(report: Path, browser: Chromium, tmp_path: Path):
    old = tmp_path / "old.html"
    old.write_text(report.read_text().replace('"use strict";', '"use strict"; delete window.DecompressionStream;', 1))
    with browser.open(old) as sheet:
        sheet.wait("document.getElementById('tokens').textContent.includes('a browser of 2023')")
        assert sheet.errors == []
