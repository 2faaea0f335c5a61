"""Films on their way to the disk: whose, how many, how large, and what becomes of a row whose film cannot be kept."""

from __future__ import annotations

import base64
import json
import logging
import struct
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from dgbatch.records import CanvasFilm, Film, Frame
from dgbatch.runner.again import Again
from dgbatch.runner.filming import PROMPT_CHARACTERS, Filming, film_bytes, filmed_shards
from dgbatch.runner.piece import Piece
from dgbatch.runner.plan import Shard
from dgbatch.runner.sink import OutputRow
from dgbatch.runner.storage.local_folder import LocalFolder
from tests.fake_engine import fake_job, text_film
from tests.runner.lone_worker import give, received, started, wait_for
from tests.runner.small_run import completion


def numbers(text: str) -> list[int]:
    raw = base64.b64decode(text)
    return list(struct.unpack(f"<{len(raw) // 2}H", raw))


@pytest.mark.parametrize(
    ("shards", "films", "filmed"),
    [(8, 4, {0, 2, 4, 6}), (8, 0, set()), (3, 4, {0, 1, 2}), (0, 4, set()), (10, 3, {0, 3, 6}), (1000, 1, {0})],
)
def test_films_are_of_evenly_spaced_shards(shards: int, films: int, filmed: set[int]) -> None:
    assert filmed_shards([SimpleNamespace(index=index) for index in range(shards)], films) == filmed  # type: ignore[misc]


def test_a_film_is_kept_small_and_comes_back_whole() -> None:
    """Two tokens, one of them revised, in one step: all that is in the file, spelled out."""
    frame = Frame(tokens=(70, 9), accepted=(False, True), argmax=(70, 12), entropy=(400, 3))
    film = Film((CanvasFilm((12, 70), (frame,)),), {9: "a", 12: " b", 70: "<end>"}, frozenset({70}))
    body = json.loads(film_bytes(7, "x" * PROMPT_CHARACTERS + "!", completion("r9", text="a b"), film))
    (canvas,) = body.pop("film")
    (step,) = canvas.pop("steps")
    assert numbers(canvas["noise"]) == [1, 2]
    assert {name: numbers(step[name]) for name in ("tokens", "argmax", "entropy")} == {
        "tokens": [2, 0], "argmax": [2, 1], "entropy": [400, 3],
    }  # fmt: skip
    assert base64.b64decode(step["accepted"]) == b"\x02"
    assert body == {
        "version": 1, "shard": 7, "id": "r9", "sample": 0, "prompt": "x" * PROMPT_CHARACTERS, "prompt_cut": True,
        "text": "a b", "thinking": None, "finish_reason": "end_of_turn", "tokens": 4, "denoise_steps": 3,
        "revised_tokens": 0, "canvases": 1, "canvas_length": 2, "token_bytes": 2, "pieces": ["a", " b", "<end>"],
        "special": [2],
    }  # fmt: skip


def test_a_film_of_more_tokens_than_two_bytes_can_number_takes_four() -> None:
    ids = tuple(range(70_000))
    frame = Frame(ids, (True,) * 70_000, ids, (0,) * 70_000)
    film = Film((CanvasFilm(ids, (frame,)),), dict.fromkeys(ids, "x"), frozenset())
    body = json.loads(film_bytes(0, "", completion(), film))
    raw = base64.b64decode(body["film"][0]["noise"])
    assert (body["token_bytes"], len(raw), raw[-4:]) == (4, 280_000, struct.pack("<I", 69_999))


def test_a_row_of_a_filmed_shard_is_filmed_and_its_data_is_what_it_would_be(tmp_path: Path) -> None:
    prompts = [f"row {i}" for i in range(16)]
    shas = []
    for filmed in (frozenset[int](), frozenset({1})):
        worker, plan, spec = started(fake_job(tmp_path / str(len(filmed)), prompts), filmed=filmed)
        report = wait_for(worker, lambda report, receipts, failures: len(receipts) == 2, [give(plan), give(plan, 1)])
        shas.append([receipt.data.sha256 for receipt in sorted(report.receipts, key=lambda each: each.shard)])
        folder = LocalFolder(spec.output.path)
        assert list(folder.list("_dgbatch/films")) == [f"_dgbatch/films/{index:06d}.json" for index in filmed]
    assert shas[0] == shas[1]
    body = json.loads(folder.get("_dgbatch/films/000001.json"))
    (data,) = [file for file in folder.list("data") if "000001" in file]
    rows = pq.read_table(folder.at(data)).to_pylist()
    most = max(rows, key=lambda row: row["denoise_steps"])
    assert (body["id"], body["shard"], body["sample"]) == (most["id"], 1, 0)
    assert (body["prompt"], body["text"]) == (most["text"][::-1], most["text"])
    last = numbers(body["film"][0]["steps"][-1]["argmax"])
    assert "".join(body["pieces"][token] for token in last if token not in body["special"]) == most["text"]


@pytest.mark.parametrize("change", ["ninth row", "second sample", "another shard", "a probe", "a round of retry"])
def test_only_the_first_samples_of_the_first_rows_are_filmed(tmp_path: Path, change: str) -> None:
    filming = Filming(LocalFolder(tmp_path), frozenset({3}))
    shard = Shard(index=4 if change == "another shard" else 3, file="f", row_group=0, first_row=0, rows=2, selected=2)
    prompt = SimpleNamespace(sample=int(change == "second sample"), messages=({"role": "user", "content": "x"},))
    task = SimpleNamespace(
        piece=Piece.whole(shard),
        probe=range(1) if change == "a probe" else None,
        again=Again(shard, 1, (), (), (), 1, 1) if change == "a round of retry" else None,
    )
    opened = SimpleNamespace(place=task.piece.place, task=task)
    assert filming.ask(prompt, opened, 8 * (change == "ninth row")) is prompt  # type: ignore[arg-type]


def test_the_film_of_the_row_that_took_most_steps_is_kept_and_of_equal_ones_the_first(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    steps = {"r0": 2, "r1": 9, "r2": 9, "r3": 30}
    rows = [OutputRow(replace(completion(name), denoise_steps=taken), 1, None, {}) for name, taken in steps.items()]
    filmed = [replace(row, completion=replace(row.completion, film=text_film("4", 2))) for row in rows[:3]]
    Filming(folder, frozenset({3})).keep(3, [*filmed, rows[3]])
    assert json.loads(folder.get("_dgbatch/films/000003.json"))["id"] == "r1"


def test_a_film_that_is_there_stays(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    folder.put("_dgbatch/films/000003.json", b"the first one")
    Filming(folder, frozenset({3})).keep(3, [filmed_row()])
    assert folder.get("_dgbatch/films/000003.json") == b"the first one"


def test_a_film_that_cannot_be_written_costs_nothing_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = LocalFolder(tmp_path)

    def full(name: str, data: bytes) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "put_if_absent", full)
    with caplog.at_level(logging.WARNING):
        Filming(folder, frozenset({3})).keep(3, [filmed_row()])
    assert "the film of shard 3 was not kept" in caplog.text and "No space left" in caplog.text


def test_a_worker_whose_film_cannot_be_written_commits_its_rows(tmp_path: Path) -> None:
    job = fake_job(tmp_path, ["one", "two"])
    worker, plan, spec = started(job, filmed=frozenset({0}))
    films = Path(spec.output.path, "_dgbatch", "films")
    films.parent.mkdir(parents=True)
    films.write_text("a file where the folder should be")
    report = wait_for(worker, received, [give(plan)])
    assert [receipt.ok for receipt in report.receipts] == [2]
    assert films.is_file()


def filmed_row() -> OutputRow:
    return OutputRow(replace(completion(text="4"), film=text_film("4", 2)), 1, None, {})
