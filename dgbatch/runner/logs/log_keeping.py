"""Which logs of a run are kept, and the last words of processes that died."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING

from dgbatch.runner.layout import LOGS
from dgbatch.runner.logs.log_lines import LAST_WORDS, MOST_MESSAGE, chunk_name, shortened, stamp
from dgbatch.runner.logs.spool import unread

if TYPE_CHECKING:
    from dgbatch.runner.logs.process_log import LogIds
    from dgbatch.runner.logs.redaction import Redaction
    from dgbatch.runner.logs.spool import Left
    from dgbatch.runner.storage.folder import Folder

MOST_CHUNKS = 1000  # of earlier submits, 250 MiB at most: before another one begins the oldest submits go
ROOM_S = 10.0  # for that, of a submit that waits: the next one goes on
MOST_LAST_WORDS = 2000  # lines


def make_room(folder: Folder, limit_s: float = ROOM_S) -> None:
    """Before a submit: the logs of the oldest ones go, whole, while all together are too many and there is time."""
    end = time.monotonic() + limit_s
    names = folder.list(LOGS)
    chunks = Counter(name.rpartition("/")[2].split(".")[0] for name in names)
    over = len(names) - MOST_CHUNKS
    for submit in sorted(chunks):
        if over <= 0:
            return
        over -= chunks[submit]
        for name in names:
            if name.startswith(f"{LOGS}/{submit}."):
                folder.delete(name)
                if time.monotonic() > end:
                    return


def put_last_words(folder: Folder, left: Left, ids: LogIds, redaction: Redaction) -> None:
    """What a dead process had said and nobody had put into the run. Raises OSError when that fails now."""
    submit, worker, process = left.stem.split(".")
    for chunk in left.chunks:
        folder.put(f"{LOGS}/{chunk.name}", chunk.read_bytes())
    said = [(path.stat().st_mtime, line) for path in left.raw for line in unread(path) if line.strip()]
    lines = [
        {
            "at": stamp(at),
            "level": "info",
            "worker": worker,
            "message": shortened(redaction(text), MOST_MESSAGE),
            "job": ids.job,
            "run": ids.run,
            "submit": submit,
            "shards": [],
            "logger": "output",
        }
        for at, text in said[-MOST_LAST_WORDS:]
    ]
    if lines:
        data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        folder.put(f"{LOGS}/{chunk_name(submit, worker, process, LAST_WORDS)}", data.encode("utf-8", "replace"))
