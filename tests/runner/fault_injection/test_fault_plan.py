from __future__ import annotations

import pytest

from dgbatch.errors import JobError
from dgbatch.runner.fault_injection.fault_plan import Fault, When, fault_plan


def test_kills_are_read_in_their_order():
    assert fault_plan("worker@5s, driver@12.5s,node@40%,worker@written") == [
        Fault("kill", When(after_s=5.0), "worker"),
        Fault("kill", When(after_s=12.5), "driver"),
        Fault("kill", When(percent=40.0), "node"),
        Fault("kill", When(moment="written"), "worker"),
    ]


def test_hang_full_disk_and_store_errors_are_faults_too():
    assert fault_plan(hang="worker@30s", disk_full=True, store_errors=0.05) == [
        Fault("hang", When(after_s=30.0), "worker"),
        Fault("disk-full", When(percent=1.0)),
        Fault("store-errors", When(after_s=0.0), ratio=0.05),
    ]


def test_fault_is_called_what_it_was_asked_as():
    planned = fault_plan("worker@5s,node@40%,driver@committed", "worker@1s", True, 0.05)
    assert [str(fault) for fault in planned] == [
        "kill worker@5s",
        "kill node@40%",
        "kill driver@committed",
        "hang worker@1s",
        "disk-full",
        "store-errors 0.05",
    ]


@pytest.mark.parametrize(
    ("when", "elapsed_s", "rows_ratio", "due"),
    [
        (When(after_s=5.0), 4.9, 1.0, False),
        (When(after_s=5.0), 5.0, 0.0, True),
        (When(percent=40.0), 99.0, 0.39, False),
        (When(percent=40.0), 0.0, 0.4, True),
        (When(moment="written"), 99.0, 1.0, False),
    ],
)
def test_fault_is_due_by_its_own_measure(when, elapsed_s, rows_ratio, due):
    assert when.is_due(elapsed_s, rows_ratio) is due


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kill": "worker"}, "--kill worker: says no moment. Say worker@5s"),
        ({"kill": "worker@5"}, "worker@5s (after the first worker was ready)"),
        (
            {"kill": "robot@5s"},
            "--kill robot@5s: 'robot' cannot be chosen. Say worker or driver or node, as in worker@5s",
        ),
        ({"kill": "worker@soon"}, "generated, written, committed"),
        ({"kill": "node@written"}, "a node is lost after seconds"),
        ({"kill": "worker@written,worker@written"}, "asked for twice"),
        ({"hang": "driver@5s"}, "--hang driver@5s: 'driver' cannot be chosen. Say worker, as in worker@5s"),
        ({"hang": "worker@written"}, "hangs after seconds"),
        ({"store_errors": 5.0}, "--store-errors 5: it is the share"),
        ({}, "name a fault"),
    ],
)
def test_what_cannot_be_asked_is_one_clear_error(options, words):
    with pytest.raises(JobError) as error:
        fault_plan(**options)
    assert words in str(error.value)
