"""Columns are declared before the first row."""

from __future__ import annotations

import pyarrow as pa
import pytest

from dgbatch.errors import InputError, JobError
from dgbatch.runner.schema import schemas
from tests.runner.conftest import MakeJob

OWN = [
    "id: string not null",
    "sample: int32 not null",
    "text: string not null",
    "thinking: string",
    "finish_reason: string not null",
    "prompt_tokens: int32 not null",
    "tokens: int32 not null",
    "canvases: int32 not null",
    "denoise_steps: int32 not null",
    "token_ids: list<element: int32 not null> not null",
    "noise_key: uint64 not null",
    "attempt: int32 not null",
]
FAILURE = [
    "id: string not null",
    "sample: int32 not null",
    "error_code: string not null",
    "error_message: string not null",
    "attempts: int32 not null",
]


def shown(schema: pa.Schema) -> list[str]:
    return [f"{field.name}: {field.type}{'' if field.nullable else ' not null'}" for field in schema]


def test_a_plain_job_has_the_columns_of_the_contract(make_job: MakeJob) -> None:
    found = schemas(make_job(), pa.schema([("prompt", pa.string())]))
    assert shown(found.data) == OWN
    assert shown(found.quarantine) == ["prompt: string", *FAILURE]
    assert found.input_columns == ("prompt",)


def test_accept_rules_add_the_verdict(make_job: MakeJob) -> None:
    found = schemas(make_job(None, "accept.rules=[{equals: answer}]"), pa.schema([("answer", pa.string())]))
    assert shown(found.data)[len(OWN) :] == [
        "accepted: bool not null",
        "rules: struct<equals_answer: bool not null> not null",
    ]


def test_metrics_that_are_asked_for_end_the_columns_of_the_engine(make_job: MakeJob) -> None:
    kinds = pa.schema([("answer", pa.string())])
    job = make_job(None, "output.metrics=true", "accept.rules=[{equals: answer}]", "output.columns=[answer]")
    assert shown(schemas(job, kinds).data) == [
        *OWN,
        "revised_tokens: int32 not null",
        "mean_entropy: float not null",
        "queue_s: float not null",
        "prefill_s: float not null",
        "denoise_s: float not null",
        "accepted: bool not null",
        "rules: struct<equals_answer: bool not null> not null",
        "answer: string",
    ]


def test_a_name_of_a_metric_is_free_where_none_are_asked_for(make_job: MakeJob) -> None:
    kinds = pa.schema([("queue_s", pa.float64())])
    assert shown(schemas(make_job(None, "output.columns=[queue_s]"), kinds).data) == [*OWN, "queue_s: double"]
    with pytest.raises(JobError, match="'queue_s' is also the name of a column that dgbatch writes"):
        schemas(make_job(None, "output.columns=[queue_s]", "output.metrics=true"), kinds)


def test_input_columns_keep_their_type_and_come_last(make_job: MakeJob) -> None:
    kinds = pa.schema([("when", pa.timestamp("us", "UTC")), ("price", pa.decimal128(9, 2)), ("unused", pa.int8())])
    found = schemas(make_job(None, "output.columns=[price, when]"), kinds)
    assert shown(found.data)[len(OWN) :] == ["price: decimal128(9, 2)", "when: timestamp[us, tz=UTC]"]
    assert shown(found.quarantine)[:3] == ["when: timestamp[us, tz=UTC]", "price: decimal128(9, 2)", "unused: int8"]
    assert found.input_columns == ("when", "price", "unused")


def test_a_column_of_nulls_is_declared_as_text(make_job: MakeJob) -> None:
    found = schemas(make_job(None, "output.columns=[note]"), pa.schema([("note", pa.null())]))
    assert found.data.field("note").type == pa.string()
    assert found.quarantine.field("note").type == pa.string()


def test_an_id_column_called_id_is_the_id(make_job: MakeJob) -> None:
    kinds = pa.schema([("id", pa.int64()), ("prompt", pa.string())])
    found = schemas(make_job(None, "input.id=id", "output.columns=[id, prompt]"), kinds)
    assert shown(found.data) == [*OWN, "prompt: string"]
    assert shown(found.quarantine) == ["prompt: string", *FAILURE]


def test_a_column_asked_for_under_one_of_our_names_is_refused(make_job: MakeJob) -> None:
    job = make_job(None, "output.columns=[text]")
    with pytest.raises(JobError, match=r"'text' is also the name of a column that dgbatch writes. Rename it"):
        schemas(job, pa.schema([("text", pa.string())]))


def test_a_column_asked_for_that_is_not_there_is_refused(make_job: MakeJob) -> None:
    job = make_job(None, "output.columns=[answer]")
    with pytest.raises(InputError, match=r"no column 'answer' in the input; it has prompt\."):
        schemas(job, pa.schema([("prompt", pa.string())]))


def test_quarantine_renames_input_columns_that_bear_our_names(make_job: MakeJob) -> None:
    kinds = pa.schema([("id", pa.int64()), ("sample", pa.binary()), ("input_sample", pa.string())])
    found = schemas(make_job(), kinds)
    assert shown(found.quarantine) == [
        "input_id: int64",
        "input_input_sample: binary",
        "input_sample: string",
        *FAILURE,
    ]
    assert found.quarantine_columns[1] == ("sample", "input_input_sample")
