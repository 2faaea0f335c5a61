"""What a worker leaves of a finished piece: its two files, and the receipt that the driver makes a commit of."""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING

from dgbatch.runner.commits import Commit
from dgbatch.runner.report import Failure
from dgbatch.runner.sink import counts, write_shard

if TYPE_CHECKING:
    from dgbatch.runner.filming import Filming
    from dgbatch.runner.open_piece import OpenPiece
    from dgbatch.runner.schema import Schemas
    from dgbatch.runner.storage.folder import Folder

LOG = logging.getLogger(__name__)


class PieceFiles:
    """Writes the pieces of one worker into the run's folder."""

    def __init__(self, worker: str, folder: Folder, fmt: str, schemas: Schemas, filming: Filming):
        self.worker, self.folder, self.fmt, self.schemas, self.filming = worker, folder, fmt, schemas, filming

    def write(self, opened: OpenPiece) -> Commit | Failure:
        """Both files of a finished piece, in the order of its input, under a name of this attempt."""
        rows, quarantined = opened.results()
        attempt = uuid.uuid4().hex[:8]
        index, again = opened.place[0], opened.task.again
        try:
            data, given_up = write_shard(self.folder, index, attempt, self.fmt, self.schemas, rows, quarantined)
        except Exception as error:  # disk full, store away: the piece is tried again
            LOG.error("%s cannot be written", opened.task.piece, exc_info=True, extra=about(opened))
            return Failure.of(error, opened.place)
        self.filming.keep(index, rows)
        codes = Counter(row.error_code for row in quarantined)
        LOG.info(
            "%s written: %d rows%s", opened.task.piece, len(rows),
            "".join(f", {number} quarantined: {code}" for code, number in codes.most_common()), extra=about(opened),
        )  # fmt: skip
        return Commit(
            shard=index,
            attempt=attempt,
            data=data,
            quarantine=given_up,
            **counts(rows, quarantined),
            seconds=round(time.monotonic() - opened.started_at, 3),
            worker=self.worker,
            committed_at="",  # the driver's clock says when
            span=opened.span,
            round=0 if again is None else again.round,
            base=() if again is None else again.base,
        )


def about(opened: OpenPiece) -> dict[str, tuple[int, ...]]:
    """For `extra`: the shard that a line is about."""
    return {"shards": (opened.place[0],)}
