"""Logs of a run in an object store: chunks are put there while the run works, and what dead workers left at its end."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dgbatch.runner.layout import LOGS
from dgbatch.runner.logs import process_log
from dgbatch.runner.logs.log_lines import parsed
from dgbatch.runner.logs.process_log import LogIds, ProcessLog, driver_log
from dgbatch.runner.storage.folder import open_folder
from tests.runner.logs.test_logs import DYING

SUBMIT = "20261121T163205-3f9c"


def said(place: str) -> list[tuple[str, str]]:
    folder = open_folder(place)
    lines = [parsed(text) for name in folder.list(LOGS) for text in folder.get(name).splitlines()]
    return [(line["worker"], line["message"]) for line in lines if line]


def test_chunks_grow_in_the_store_and_the_last_words_of_the_dead_come_too(s3: str):
    ids = LogIds(s3, s3, "test", SUBMIT, {})
    log = ProcessLog(ids, "w1").open()
    try:
        for text in ("one", "two"):
            logging.getLogger("dgbatch").info(text)
            log.flush_soon(20.0)
            assert said(s3)[-1] == ("w1", text)
        assert said(s3) == [("w1", "one"), ("w1", "two")]
    finally:
        log.close()
    root = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", DYING.format(path=s3)], cwd=root, env={**os.environ, "PYTHONPATH": root})
    with driver_log(ids):
        pass
    assert [line for line in said(s3) if line[0] == "w0"] == [("w0", "native hunter2"), ("w0", "no end of line")]
    assert ("w1", "two") in said(s3)


def test_store_that_is_away_costs_lines_and_not_the_job(s3: str, monkeypatch: pytest.MonkeyPatch):
    def away(path: str):
        raise OSError("the store is away")

    monkeypatch.setattr(process_log, "open_folder", away)
    with driver_log(LogIds(s3, s3, "test", SUBMIT, {})):
        logging.getLogger("dgbatch").error("nobody reads this")
    assert said(s3) == []
