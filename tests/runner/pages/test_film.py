"""Films on a page: the canvas on show is the one that the engine had, and nothing in a text can do harm."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from dgbatch import demo
from dgbatch.records import CanvasFilm, Film, Frame
from dgbatch.runner.filming import film_bytes
from dgbatch.runner.model import ENGINE
from dgbatch.runner.pages.film import film_html, films
from dgbatch.runner.run_folder import Run
from dgbatch.runner.spec import load_job
from dgbatch.runner.storage.local_folder import LocalFolder
from tests.browser import PHONE, Chromium, Sheet
from tests.fake_engine import text_film
from tests.runner.lone_worker import give, loaded, started, stop_workers, wait_for
from tests.runner.small_run import completion, new_run

DEMO = Path(demo.__file__).parent
HARM = "</script ><script>window.harmed = 1</script><!-- <img src=x onerror='window.harmed = 2'> {{ data }} &lt;\u2028"
HEAD = "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'><body>"
STAGE = """[...document.querySelectorAll('.film-cell:not(.film-cut, .film-special, .film-hidden) .film-now')]
    .map(cell => cell.textContent).join('').replaceAll('↵', '\\n')"""


def as_read(film: Film, text: str, **more: Any) -> Mapping[str, Any]:
    """A film as `films` gives it."""
    done = replace(completion(text=text), token_ids=(*map(ord, text), 1), canvases=len(film.canvases))
    return json.loads(film_bytes(0, "a prompt", done, film)) | more


def corrected() -> Film:
    """Three steps: the first position is accepted as x and then as a, the second one is sure at the end alone."""
    pieces = {1: "<end>", 97: "a", 98: "b", 120: "x", 63: "?"}
    frames = (
        Frame((120, 63, 63), (True, False, False), (120, 63, 63), (8, 64, 128)),
        Frame((97, 63, 1), (True, False, True), (97, 98, 1), (0, 32, 0)),
        Frame((97, 98, 1), (True, True, True), (97, 98, 1), (0, 0, 0)),
    )
    return Film((CanvasFilm((63, 98, 120), frames),), pieces, frozenset({1}))


def page(tmp_path: Path, *shown: Mapping[str, Any]) -> Path:
    path = tmp_path / "film.html"
    path.write_text(HEAD + film_html(shown), encoding="utf-8")
    return path


def seek(sheet: Sheet, frame: int) -> None:
    sheet.page.locator(".film-slider").fill(str(frame))
    sheet.wait(f"document.querySelector('.film').dataset.frame === '{frame}'")


def frame_of(sheet: Sheet) -> tuple[int, int]:
    data = sheet.page.evaluate("({...document.querySelector('.film').dataset})")
    return int(data["frame"]), int(data["frames"])


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[dict[str, Any]]]:
    """Three puzzles of the demo, filmed by a worker with the real engine, and the rows that it wrote."""
    folder = tmp_path_factory.mktemp("real")
    rows = pq.read_table(DEMO / "prompts.parquet")
    tasks = rows["task"].to_pylist()
    chosen = rows.take([tasks.index(task) for task in ("sudoku6", "add", "sort")])
    pq.write_table(chosen, folder / "in.parquet", row_group_size=1)
    job = {
        "version": 1,
        "name": "films",
        "model": {"checkpoint": str(DEMO / "checkpoint")},
        "input": {"path": "in.parquet", "id": "id"},
        "prompt": {"template": "{{ prompt }}"},
        "generation": {"entropy_bound": 0.03},  # more steps, more to see
        "output": {"path": "out"},
        "workers": {"canvases": 4},
    }
    (folder / "job.yaml").write_text(json.dumps(job))
    torch.set_num_threads(1)  # as the runner does: small matrices are slower on more
    run = new_run(load_job(folder / "job.yaml"))
    worker, plan, _ = started(str(folder / "job.yaml"), ENGINE, filmed=frozenset({0, 1, 2}))
    wait_for(worker, loaded)
    pieces = [give(plan, index) for index in range(3)]
    report = wait_for(worker, lambda report, receipts, failures: len(receipts) == 3, pieces)
    stop_workers()
    receipts = sorted(report.receipts, key=lambda each: each.shard)
    return run, [pq.read_table(run.folder.at(receipt.data.name)).to_pylist()[0] for receipt in receipts]


def test_the_last_frame_of_a_real_film_is_the_text_of_its_row(
    real: tuple[Run, list[dict[str, Any]]], browser: Chromium, tmp_path: Path
) -> None:
    run, rows = real
    shown = films(run)
    assert [film["id"] for film in shown] == [row["id"] for row in rows]
    assert any(row["canvases"] > 1 for row in rows)
    with browser.open(page(tmp_path, *shown)) as sheet:
        for film, row in zip(shown, rows, strict=True):
            sheet.page.get_by_role("button", name=row["id"]).click()
            sheet.page.locator(".film-slider").press("End")
            at, frames = frame_of(sheet)
            assert (at, frames) == (frames - 1, row["denoise_steps"] + 2 * row["canvases"])
            assert sheet.page.evaluate(STAGE) == row["text"]
            assert sheet.page.inner_text(".film-text").strip() == row["text"]
            assert sheet.page.inner_text(".film-corrected") == str(film["revised_tokens"])
        assert (sheet.errors, sheet.requests, sheet.overflow) == ([], [], 0)


def test_play_plays_to_the_end_and_again_from_the_start(browser: Chromium, tmp_path: Path) -> None:
    with browser.open(page(tmp_path, as_read(text_film("hello", 3), "hello"))) as sheet:
        sheet.page.locator(".film-speed").select_option("4")
        for _ in range(2):
            seen = sheet.page.evaluate_handle(
                """() => { const film = document.querySelector('.film'), seen = [];
                new MutationObserver(() => seen.at(-1) === film.dataset.frame || seen.push(film.dataset.frame))
                    .observe(film, {attributes: true}); return seen }"""
            )
            sheet.page.get_by_role("button", name="Play").click()
            sheet.page.get_by_role("button", name="Pause").wait_for()
            sheet.wait("document.querySelector('.film').dataset.playing === 'false'")
            assert seen.json_value() == ["0", "1", "2", "3", "4"]
            assert sheet.page.evaluate(STAGE) == "hello"
        assert sheet.errors == []


def test_slider_keys_and_buttons_move_the_frames(browser: Chromium, tmp_path: Path) -> None:
    with browser.open(page(tmp_path, as_read(text_film("ab", 3), "ab"))) as sheet:
        said = []
        for frame in range(5):
            seek(sheet, frame)
            said.append((sheet.page.evaluate(STAGE), sheet.page.inner_text(".film-step")))
        assert said == [
            ("???", "noise"),
            ("a??", "step 1 of 3"),
            ("ab?", "step 2 of 3"),
            ("ab", "step 3 of 3"),
            ("ab", "settled after 3 steps"),
        ]
        stage = sheet.page.locator(".film-stage")
        moved = []
        for key in ("Home", "ArrowRight", "ArrowRight", "ArrowLeft", "End", "ArrowRight"):
            stage.press(key)
            moved.append(frame_of(sheet)[0])
        for name in ("Step back", "Step back", "Step forward"):
            sheet.page.get_by_role("button", name=name).click()
            moved.append(frame_of(sheet)[0])
        assert moved == [0, 1, 2, 1, 4, 4, 3, 2, 3]
        stage.press(" ")
        sheet.wait("document.querySelector('.film').dataset.frame === '4'")
        slider = sheet.page.get_by_role("slider", name="Denoising step")
        assert slider.get_attribute("aria-valuetext") == "canvas 1 of 1, settled after 3 steps"
        assert "It reads: ab" in str(sheet.page.locator(".film-stage").get_attribute("aria-label"))


def test_accepted_positions_heat_and_corrections_are_those_of_the_film(browser: Chromium, tmp_path: Path) -> None:
    look = """[...document.querySelectorAll('.film-cell')].map(cell => [
        cell.querySelector('.film-now').textContent, cell.classList.contains('film-kept'),
        Number(cell.style.getPropertyValue('--heat')), cell.querySelector('.film-was').textContent,
        cell.classList.contains('film-flash')])"""
    with browser.open(page(tmp_path, as_read(corrected(), "ab"))) as sheet:
        cells = []
        for frame in range(5):
            seek(sheet, frame)
            cells.append(sheet.page.evaluate(look))
        assert cells == [
            [["?", False, 0, "", False], ["b", False, 0, "", False], ["x", False, 0, "", False]],
            [["x", True, 0.25, "", False], ["?", False, 0.707, "", False], ["?", False, 1, "", False]],
            [["a", True, 0, "x", True], ["?", False, 0.5, "", False], ["<end>", True, 0, "", False]],
            [["a", True, 0, "x", False], ["b", True, 0, "", False], ["<end>", True, 0, "", False]],
            [["a", False, 0, "x", False], ["b", False, 0, "", False], ["<end>", False, 0, "", False]],
        ]
        seek(sheet, 2)
        numbers = [sheet.page.inner_text(f".film-{name}") for name in ("accepted", "entropy", "corrected")]
        assert numbers == ["67 %", "0.33", "1"]
        sheet.page.locator(".film-show").select_option("best")
        assert sheet.page.evaluate(STAGE) == "ab"
        sheet.page.locator(".film-cell").first.hover()
        history = sheet.page.locator(".film-moment").all_inner_texts()
        assert [" ".join(text.split()) for text in history] == [
            "noise “?”", "1 “x” 0.25, accepted", "2 “a” 0.00, accepted", "3 “a” 0.00, accepted", "settled “a”",
        ]  # fmt: skip


def test_canvases_that_are_not_begun_are_hidden_and_those_before_are_text(browser: Chromium, tmp_path: Path) -> None:
    two = [text_film(text, 2) for text in ("abc", "def")]
    film = Film((*two[0].canvases, *two[1].canvases), two[0].pieces | two[1].pieces, frozenset({1}))
    body = as_read(film, "abcdef", tokens=8)
    with browser.open(page(tmp_path, body)) as sheet:
        seek(sheet, 1)
        assert sheet.page.evaluate(STAGE) == "ab??"
        assert sheet.page.inner_text(".film-canvas") == "canvas 1 of 2"
        seek(sheet, 3)
        assert (sheet.page.evaluate(STAGE), sheet.page.locator(".film-done").count()) == ("abc", 0)
        seek(sheet, 4)
        assert (sheet.page.evaluate(STAGE), sheet.page.locator(".film-done").count()) == ("abc????", 4)


def test_the_film_in_which_most_happens_is_opened_first(browser: Chromium, tmp_path: Path) -> None:
    shown = [as_read(text_film("ab", 2), "ab", id=str(number), revised_tokens=number % 3) for number in range(4)]
    with browser.open(page(tmp_path, *shown)) as sheet:
        pressed = "[...document.querySelectorAll('.film-picks [aria-pressed=true]')].map(button => button.textContent)"
        assert sheet.page.evaluate(pressed) == ["2"]
        sheet.page.get_by_role("button", name="3").click()
        assert sheet.page.evaluate(pressed) == ["3"]


def test_a_text_that_holds_a_script_does_no_harm(browser: Chromium, tmp_path: Path) -> None:
    frame = Frame((5, 6), (True, True), (5, 6), (0, 0))
    film = Film((CanvasFilm((6, 5), (frame,)),), {5: HARM, 6: "&amp;<b>"}, frozenset({6}))
    body = as_read(film, HARM, id=HARM, prompt=HARM, thinking=HARM, tokens=2)
    assert film_html([body]).count("</script>") == film_html([as_read(text_film("a", 1), "a")]).count("</script>") == 2
    with browser.open(page(tmp_path, body, body)) as sheet:
        for frame_number in range(3):
            seek(sheet, frame_number)
        sheet.page.locator(".film-cell").first.hover()
        for name in ("prompt", "thinking", "text"):
            assert sheet.page.evaluate(f"document.querySelector('.film-{name}').textContent") == HARM
        assert HARM.split("\u2028")[0] in str(sheet.page.locator(".film-picks button").first.text_content())
        assert sheet.page.evaluate("window.harmed") is None
        assert sheet.page.locator(".film img").count() == 0
        assert (sheet.errors, sheet.requests) == ([], [])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_long_film_fits_a_phone_in_the_light_and_in_the_dark(browser: Chromium, tmp_path: Path, scheme: Any) -> None:
    words = "a long answer of words that goes on and on " * 6 + "x" * 60
    with browser.open(page(tmp_path, as_read(text_film(words, 4), words, prompt="p" * 400)), PHONE, scheme) as sheet:
        assert (sheet.overflow, sheet.errors) == (0, [])
        ink, paper = sheet.page.evaluate(
            """(() => { const style = getComputedStyle(document.querySelector('.film'));
            const light = name => { const [r, g, b] = style.getPropertyValue(name).match(/[0-9a-f]{2}/g)
                .map(part => parseInt(part, 16)); return r + g + b };
            return [light('--film-ink'), light('--film-paper')] })()"""
        )
        assert (ink > paper) == (scheme == "dark")
        widest = sheet.page.evaluate("Math.max(...[...document.querySelectorAll('.film *')].map(e => e.clientWidth))")
        assert widest <= PHONE[0]


def test_a_reader_who_asked_for_stillness_gets_no_flash(browser: Chromium, tmp_path: Path) -> None:
    flashing = "getComputedStyle(document.querySelector('.film-flash'), '::after').animationName"
    for still, name in ((False, "film-flash"), (True, "none")):
        with browser.open(page(tmp_path, as_read(corrected(), "ab")), still=still) as sheet:
            seek(sheet, 2)
            assert sheet.page.evaluate(flashing) == name


def test_a_film_that_is_damaged_is_left_out(tmp_path: Path) -> None:
    good = as_read(corrected(), "ab")
    step = good["film"][0]["steps"][0]
    broken: list[Any] = [
        good | {"version": 99},
        {name: value for name, value in good.items() if name != "pieces"},
        good | {"pieces": good["pieces"][:2]},  # tokens without a text
        good | {"pieces": [1, 2, 3, 4, 5]},
        good | {"canvas_length": 4},
        good | {"film": []},
        good | {"text": None},
        good | {"film": [good["film"][0] | {"steps": []}]},
        good | {"film": [good["film"][0] | {"steps": [step | {"accepted": "!"}]}]},
        [good],
    ]
    folder = LocalFolder(tmp_path / "run")
    for number, body in enumerate(broken):
        folder.put(f"_dgbatch/films/{number:06d}.json", json.dumps(body).encode())
    folder.put("_dgbatch/films/000098.json", b'{"version": 1, "film": [')
    folder.put("_dgbatch/films/000099.json", json.dumps(good).encode())
    run = Run.__new__(Run)
    run.folder = folder
    assert films(run) == [good]


def test_a_run_without_films_has_none_to_show(tmp_path: Path) -> None:
    run = Run.__new__(Run)
    run.folder = LocalFolder(tmp_path)
    assert films(run) == [] and film_html([]) == ""
