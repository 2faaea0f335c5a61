"""Settings of each row's own: what arrives, what is refused, and in which words."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgbatch.errors import InputError, JobError, RowError
from dgbatch.records import Generation
from dgbatch.runner.generation import ROW_SETTINGS, GenerationSpec, RowSettings
from dgbatch.runner.plan import make_plan
from dgbatch.runner.prompts import Renderer, noise_key
from dgbatch.runner.spec import load_job
from tests.runner.conftest import MakeJob

JOB = GenerationSpec(max_new_tokens=100, seed=7, stop=["."], greedy=True, overrides="own")
ALL: dict[str, Any] = {
    "max_new_tokens": 5,
    "max_denoising_steps": 9,
    "entropy_bound": 0.25,
    "temperature_start": 1.5,
    "temperature_end": 0.5,
    "confidence": 0.125,
    "stability": 3,
    "stop": ["a", "\n\n"],
    "greedy": False,
    "suppress_tokens": [3, 0, 262143],
    "seed": 2**63 - 1,
}
NOT_UTF8 = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"], pa.binary()).buffers())[0]


def of(value: Any) -> GenerationSpec:
    return RowSettings(JOB, ["own"]).of({"own": value})


def refused(value: Any) -> str:
    with pytest.raises(RowError) as caught:
        of(value)
    assert caught.value.code == "bad_generation"
    message = caught.value.message
    assert "pydantic" not in message and "\n" not in message and len(message) < 500
    return message


def test_every_setting_of_the_engine_and_the_seed_can_be_a_rows_own():
    assert set(ROW_SETTINGS) == {field.name for field in fields(Generation)} | {"seed"} == set(ALL)
    assert set(GenerationSpec.model_fields) - set(ROW_SETTINGS) == {"samples", "overrides"}


@pytest.mark.parametrize("form", [dict, json.dumps], ids=["struct", "JSON"])
def test_a_row_that_sets_everything_gets_exactly_that(form):
    found = of(form(ALL))
    assert found.seed == 2**63 - 1
    assert found.to_record() == Generation(
        5, 9, 0.25, 1.5, 0.5, 0.125, 3, stop=("a", "\n\n"), greedy=False, suppress_tokens=(3, 0, 262143)
    )


@pytest.mark.parametrize("form", [dict, json.dumps], ids=["struct", "JSON"])
def test_what_a_row_does_not_say_is_the_jobs(form):
    found = of(form({"max_new_tokens": 5, "temperature_end": 1, "stop": None}))
    assert found == JOB.model_copy(update={"max_new_tokens": 5, "temperature_end": 1.0})
    assert of(form({"stop": []})).stop == ()  # said, and none


@pytest.mark.parametrize("nothing", [None, {}, "{}", "null", "", " \n", {"seed": None, "stop": None}])
def test_a_row_that_says_nothing_has_the_jobs_settings(nothing):
    assert of(nothing) is JOB


def test_without_the_key_no_column_is_read():
    settings = RowSettings(GenerationSpec(), ["own"])
    assert settings.column is None and settings.said({}) == {} and settings.of({}) == GenerationSpec()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"max_new_tokens": 0}, "column 'own': max_new_tokens: 0 must be at least 1."),
        ({"max_new_tokens": 2**31}, "max_new_tokens: 2147483648 must be less than 2,147,483,648."),
        ({"max_new_tokens": 5.0}, "max_new_tokens: 5.0 is a number; it takes a whole number"),
        ({"max_new_tokens": "5"}, "max_new_tokens: '5' is text; it takes a whole number"),
        ({"max_new_tokens": True}, "max_new_tokens: true is true or false; it takes a whole number"),
        ({"max_denoising_steps": 10**7}, "must be at most 1,000,000."),
        ({"temperature_start": 0}, "temperature_start: 0 must be at least 1e-06."),
        ({"temperature_end": 1e7}, "temperature_end: 10000000.0 must be at most 1e+06."),
        ({"entropy_bound": -0.5}, "entropy_bound: -0.5 must be at least 0."),
        ('{"confidence": NaN}', "confidence: nan must be a finite number."),
        ('{"confidence": 1e999}', "confidence: inf must be a finite number."),
        ({"stability": -1}, "stability: -1 must be at least 0."),
        ({"stop": "a"}, "stop: 'a' is text; it takes a list, each of text."),
        ({"stop": ["a", ""]}, "stop[1]: '' must not be empty."),
        ({"stop": [None]}, "stop[0]: has no value. It takes text."),
        ('{"stop": ["\\ud800"]}', "stop[0]: '\\ud800' is not text that UTF-8 can hold."),
        ({"greedy": 1}, "greedy: 1 is a whole number; it takes true or false."),
        ({"suppress_tokens": [1, -1]}, "suppress_tokens[1]: -1 must be at least 0."),
        ({"suppress_tokens": [1.0]}, "suppress_tokens[0]: 1.0 is a number; it takes a whole number"),
        ({"suppress_tokens": 4}, "suppress_tokens: 4 is a whole number; it takes a list, each of a whole number of at"),
        ({"seed": -1}, "seed: -1 must be at least 0."),
        ({"seed": 2**63}, "seed: 9223372036854775808 must be less than 9,223,372,036,854,775,808."),
        ({"seed": -1, "greedy": "no"}, "column 'own': seed: -1 must be at least 0. greedy: 'no' is text; it takes"),
        ({"max_tokens": 5}, "column 'own': 'max_tokens': No such setting. Did you mean max_new_tokens?"),
        ({"colour": 5}, "'colour': No such setting. A row can set: max_new_tokens, seed,"),
        ({"max_tokens": None}, "Did you mean max_new_tokens?"),
        ({"samples": 2}, "A row has as many samples as the job says: set generation.samples."),
        ({"overrides": "x"}, "No such setting."),
        ("[1]", "column 'own' holds a list, not an object with settings"),
        ("3", "column 'own' holds a whole number, not an object with settings"),
        (NOT_UTF8, "column 'own' holds a StringScalar, not an object with settings"),
        ("{", "column 'own' is not JSON: Expecting property name"),
        ("{'seed': 1}", "column 'own' is not JSON: "),
        ('{"seed": 1, "seed": 2}', "column 'own' is not JSON: a key stands there twice"),
        ("[" * 10**5, "column 'own' is not JSON: maximum recursion depth"),
        ('{"seed": ' + "9" * 5000 + "}", "column 'own' is not JSON: Exceeds the limit"),
    ],
)  # fmt: skip
def test_wrong_settings_cost_that_row_and_say_why(value, says):
    assert says in refused(value)


def job_accepts(name: str, value: Any) -> bool:
    """Whether the job's own section takes this setting."""
    try:
        GenerationSpec.model_validate({name: value})
    except ValueError:
        return False
    return True


VALUES = (
    st.integers(-2, 10)
    | st.integers()
    | st.booleans()
    | st.floats()
    | st.text(max_size=3)
    | st.lists(st.integers(-1, 9) | st.text(max_size=2) | st.none(), max_size=3)
    | st.dictionaries(st.text(max_size=2), st.integers(), max_size=2)
)


@given(st.sampled_from(ROW_SETTINGS), VALUES, st.booleans())
def test_a_row_may_say_exactly_what_the_job_may(name: str, value: Any, as_text: bool):
    own = json.dumps({name: value}) if as_text else {name: value}
    if job_accepts(name, value):
        job = GenerationSpec.model_validate({name: value})
        assert getattr(of(own), name) == getattr(job, name)
        assert of(own) == JOB.model_copy(update={name: getattr(job, name)})
    else:
        refused(own)


@given(st.dictionaries(st.sampled_from(ROW_SETTINGS) | st.text(max_size=9), VALUES | st.none(), max_size=4))
def test_any_object_is_the_settings_it_says_or_a_row_error(value: dict[str, Any]):
    said = {name: setting for name, setting in value.items() if setting is not None}
    valid = set(value) <= set(ROW_SETTINGS) and all(job_accepts(name, setting) for name, setting in said.items())
    for own in (value, json.dumps(value)):
        if valid:
            assert of(own) == GenerationSpec.model_validate({**JOB.model_dump(), **said})
        else:
            refused(own)


@given(st.text() | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")))
def test_any_text_is_settings_or_a_row_error(text: str):
    try:
        found = of(text)
    except RowError:
        refused(text)
    else:
        assert isinstance(found, GenerationSpec)


# In a job


def with_settings(kind: pa.DataType, *values: Any) -> pa.Table:
    return pa.table({"prompt": ["a"] * len(values), "id": [f"r{n}" for n in range(len(values))],
                     "settings": pa.array(values, kind)})  # fmt: skip


def test_prompts_carry_the_rows_settings_and_the_noise_of_its_seed(make_job: MakeJob) -> None:
    spec = make_job(None, "generation.overrides=settings", "generation.seed=7", "generation.max_new_tokens=100")
    renderer = Renderer(spec, ["prompt", "settings", "other"])
    assert renderer.columns == ["prompt", "settings"]
    row = {"prompt": "a", "settings": '{"seed": 9, "max_new_tokens": 3}'}
    own = renderer.render("r", row, 2)
    assert own.noise_key == noise_key(9, "r", 2) and own.generation.max_new_tokens == 3
    plain = renderer.render("r", {**row, "settings": None}, 2)
    assert plain.noise_key == noise_key(7, "r", 2) and plain.generation == spec.generation.to_record()


STRUCT = pa.struct([("max_new_tokens", pa.int16()), ("stop", pa.list_(pa.string())), ("entropy_bound", pa.float32())])


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (STRUCT, {"max_new_tokens": 5, "stop": ["x"], "entropy_bound": 0.5}),
        (pa.large_string(), '{"seed": 1}'),
        (pa.string_view(), '{"seed": 1}'),
        (pa.dictionary(pa.int8(), pa.string()), '{"seed": 1}'),
        (pa.null(), None),
    ],
    ids=str,
)
def test_columns_that_can_hold_settings_are_planned(make_job: MakeJob, kind: pa.DataType, value: Any) -> None:
    assert make_plan(make_job(with_settings(kind, value, None), "generation.overrides=settings")).rows == 2


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (
            pa.struct([("max_tokens", pa.int32())]),
            "generation.overrides: column 'settings' has the field 'max_tokens'. No such setting. "
            "Did you mean max_new_tokens?",
        ),
        (pa.struct([("samples", pa.int32())]), "the field 'samples'. A row has as many samples as the job says"),
        (pa.struct([("seed", pa.int32()), ("seed", pa.int32())]), "column 'settings' has the field 'seed' twice."),
        (pa.int64(), "column 'settings' is int64; settings are a struct, or text that holds a JSON object"),
        (pa.list_(pa.string()), "settings are a struct, or text"),
    ],
    ids=str,
)
def test_columns_that_cannot_hold_settings_are_refused_by_the_plan(
    make_job: MakeJob, kind: pa.DataType, says: str
) -> None:
    spec = make_job(pa.table({"prompt": ["a"], "settings": pa.nulls(1, kind)}), "generation.overrides=settings")
    with pytest.raises(InputError) as caught:
        make_plan(spec)
    assert says in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_column_that_is_not_there_is_refused_with_the_nearest(make_job: MakeJob) -> None:
    spec = make_job(with_settings(pa.string(), "{}"), "generation.overrides=setings")
    with pytest.raises(InputError) as caught:
        make_plan(spec)
    assert str(caught.value) == (
        "generation.overrides: the input has no column 'setings'. Did you mean 'settings'? It has: prompt, id, "
        "settings."
    )


def test_a_column_missing_in_one_file_names_the_file(make_job: MakeJob, tmp_path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(with_settings(pa.string(), "{}"), tmp_path / "in" / "a.parquet")
    pq.write_table(pa.table({"prompt": ["b"], "id": ["r9"]}), tmp_path / "in" / "b.parquet")
    spec = make_job(None, "input.path=in", "generation.overrides=settings")
    with pytest.raises(InputError, match=r"generation\.overrides: b\.parquet has no column 'settings'"):
        make_plan(spec)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("generation.greedy=1", "generation.greedy: 1 is a whole number; it takes true or false."),
        ("generation.suppress_tokens=[-1]", "generation.suppress_tokens[0]: -1 must be at least 0."),
        ("generation.suppress_tokens=[a]", "generation.suppress_tokens[0]: 'a' is text; it takes a whole number of at"),
        ("generation.overrides=''", "generation.overrides: '' must not be empty."),
        ("generation.entropy_bound=1e7", "generation.entropy_bound: 10000000.0 must be at most 1e+06."),
        ("output.metrics=1", "output.metrics: 1 is a whole number; it takes true or false."),
    ],
)
def test_wrong_keys_of_the_job_are_refused_in_the_same_words(make_job: MakeJob, override: str, says: str) -> None:
    with pytest.raises(JobError) as caught:
        make_job(None, override)
    assert says in str(caught.value)


def test_greedy_and_suppressed_tokens_of_the_job_reach_the_record(make_job: MakeJob, tmp_path) -> None:
    assert make_job(None).generation.to_record() == Generation(stop=(), greedy=False, suppress_tokens=())
    spec = load_job(str(tmp_path / "job.yaml"), ["generation.greedy=true", "generation.suppress_tokens=[4, 0]"])
    assert spec.generation.to_record() == Generation(stop=(), greedy=True, suppress_tokens=(4, 0))
