"""Rows -> prompts."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgbatch.errors import InputError, JobError, RowError
from dgbatch.runner.prompts import Renderer, noise_key
from dgbatch.runner.spec import JobSpec

# as the source hands on what a careless writer put into a text column
NOT_UTF8 = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"], pa.binary()).buffers())[0]


def job(**prompt) -> JobSpec:
    return JobSpec.from_public(
        {
            "version": 1,
            "name": "x",
            "model": {"checkpoint": "demo"},
            "input": {"path": "demo"},
            "prompt": prompt,
            "generation": {"seed": 7, "max_new_tokens": 5, "stop": ["."]},
            "output": {"path": "/out"},
        }
    )


def text(template: str, row: dict, **prompt) -> str:
    return Renderer(job(template=template, **prompt), list(row)).render("r", row, 0).messages[-1]["content"]


def row_error(row: dict, **prompt) -> RowError:
    renderer = Renderer(job(**prompt), list(row))
    with pytest.raises(RowError) as caught:
        renderer.render("r", row, 0)
    return caught.value


def test_prompt_carries_all_the_engine_needs():
    prompt = Renderer(job(template="{{ a }}!", system="Be {{ b }}.", thinking=True), ["a", "b", "c"]).render(
        "r1", {"a": 1, "b": "brief", "c": None}, 3
    )
    assert prompt.id == "r1" and prompt.sample == 3 and prompt.thinking
    assert prompt.messages == ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "1!"})
    assert prompt.noise_key == noise_key(7, "r1", 3)
    assert prompt.generation.max_new_tokens == 5 and prompt.generation.stop == (".",)


@pytest.mark.parametrize(
    ("seed", "row_id", "sample", "key"),
    [
        (0, "r0", 0, 0x95C6420C23C752C9),
        (0, "r0", 1, 0x669354E353097CB3),
        (1, "r0", 0, 0x345C194352D92650),
        (0, "data/ä.parquet:3:12", 0, 0xD69155E77101BE12),
        (2**63 - 1, "", 9999, 0x27E2A7D2D2A42F6C),
    ],
)
def test_noise_keys_never_change(seed, row_id, sample, key):
    assert noise_key(seed, row_id, sample) == key


@given(
    st.tuples(st.integers(0, 99), st.text(), st.integers(0, 99)),
    st.tuples(st.integers(0, 99), st.text(), st.integers(0, 99)),
)
def test_noise_keys_tell_samples_apart(one, other):
    assert 0 <= noise_key(*one) < 2**64
    assert (noise_key(*one) == noise_key(*other)) == (one == other)


def test_template_takes_columns_filters_and_conditions():
    assert text("{% if a > 1 %}\nmany {{ b | upper }}\n{% endif %}\nend\n", {"a": 2, "b": "x"}) == "many X\nend"
    assert text("{{ row['my column'] }} {{ row.b }}", {"my column": "x", "b": 1}) == "x 1"
    assert text("{% for x in range(3) %}{{ x }}{% endfor %}", {"a": 1}) == "012"
    assert text("{{ b or '' }}-{{ b | default('none', true) }}", {"b": None}) == "-none"
    assert text("<b>{{ a }}</b> & {{ '{{' }}", {"a": "<i>"}) == "<b><i></b> & {{"


def test_renderer_asks_only_for_the_columns_it_reads():
    columns = ["a", "b", "c", "my column"]
    assert Renderer(job(template="{{ c }} {{ a }}"), columns).columns == ["a", "c"]
    assert Renderer(job(template="{{ a }}", system="{{ b }}"), columns).columns == ["a", "b"]
    assert Renderer(job(template="{{ row['my column'] }}"), columns).columns == ["my column"]
    assert Renderer(job(template="{{ row.a }}"), columns).columns == ["a"]
    assert Renderer(job(template="{% for k in row %}{{ k }}{% endfor %}"), columns).columns == columns
    assert Renderer(job(template="{{ row }}"), ["row", "b"]).columns == ["row"]
    assert Renderer(job(template="fixed"), columns).columns == []
    assert Renderer(job(messages="a"), columns).columns == ["a"]


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        (
            {"template": "{{ promt }}"},
            "prompt.template: the input has no column 'promt'. Did you mean 'prompt'? It has: prompt, n.",
        ),
        ({"template": "{{ row.promt }}"}, "no column 'promt'"),
        ({"template": "{{ row['x'] }}"}, "no column 'x'"),
        ({"template": "{{ lipsum() }}"}, "no column 'lipsum'"),
        ({"template": "{{ n }}", "system": "{{ N }}"}, "prompt.system: the input has no column 'N'. Did you mean 'n'?"),
        ({"messages": "m"}, "prompt.messages: the input has no column 'm'."),
    ],
)
def test_unknown_column_is_refused_with_the_nearest(prompt, says):
    with pytest.raises(InputError) as caught:
        Renderer(job(**prompt), ["prompt", "n"])
    assert says in str(caught.value)


def test_many_columns_are_not_all_listed():
    with pytest.raises(InputError, match="c39 and 60 more"):
        Renderer(job(template="{{ x }}"), [f"c{n}" for n in range(100)])


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("a\n{{ b", "line 2 of the template"),
        ("{% nonsense %}", "line 1 of the template"),
        ("{{ a | random }}", "line 1 of the template: No filter named 'random'"),
        ("{% include 'x' %}", "include, import and extends need other files"),
        ("{% extends 'x' %}", "include, import and extends need other files"),
    ],
)
def test_template_that_cannot_work_is_refused(template, says):
    with pytest.raises(JobError) as caught:
        Renderer(job(template=template), ["a", "b"])
    assert str(caught.value).startswith("prompt.template: ") and says in str(caught.value)


@pytest.mark.parametrize(
    ("template", "row", "code", "says"),
    [
        ("{{ a }}", {"a": None}, "null_prompt", "the template prints a null: a"),
        ("{{ a.b }}", {"a": {"b": None}}, "null_prompt", "a value inside a column"),
        ("{{ a }}", {"a": ""}, "empty_prompt", "empty after filling in"),
        ("{{ a }}\n", {"a": " \n\t"}, "empty_prompt", "empty after filling in"),
        ("{{ a.b }}", {"a": {"c": 1}}, "template_error", "no attribute 'b'"),
        ("{{ a / b }}", {"a": 1, "b": 0}, "template_error", "division by zero"),
        ("{{ a + b }}", {"a": 1, "b": "x"}, "template_error", "unsupported operand"),
        ("{{ a }}", {"a": b"\xff"}, "template_error", "binary"),
        ("{{ a }}", {"a": NOT_UTF8}, "bad_text", "a value is not UTF-8 text"),
        ("{{ a.__class__.__mro__ }}", {"a": 1}, "template_error", "unsafe"),
        ("{% for x in range(a) %}{% endfor %}", {"a": 10**9}, "template_error", "Range too big"),
        ("{{ a.append(1) }}", {"a": [1]}, "template_error", "is unsafe"),
    ],
)
def test_bad_row_costs_that_row(template, row, code, says):
    error = row_error(row, template=template)
    assert error.code == code and says in error.message


def test_system_turn_that_comes_out_blank_is_left_out():
    renderer = Renderer(job(template="{{ a }}", system="{{ b or '' }}"), ["a", "b"])
    assert [turn["role"] for turn in renderer.render("r", {"a": 1, "b": None}, 0).messages] == ["user"]


TURNS = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
]


def test_messages_column_is_taken_as_it_is():
    row = {"m": [{**turn, "name": None} for turn in TURNS]}
    assert Renderer(job(messages="m"), ["m"]).render("r", row, 0).messages == tuple(TURNS)


def test_own_system_message_of_a_row_wins():
    renderer = Renderer(job(messages="m", system="job's"), ["m"])
    assert renderer.render("r", {"m": TURNS}, 0).messages[0] == {"role": "system", "content": "job's"}
    own = [{"role": "system", "content": "row's"}, *TURNS]
    assert renderer.render("r", {"m": own}, 0).messages == tuple(own)


@pytest.mark.parametrize(
    ("value", "code", "says"),
    [
        (None, "null_prompt", "column 'm' is null"),
        ([], "empty_prompt", "holds no messages"),
        ("hi", "bad_messages", "holds str, not a list"),
        ([None], "bad_messages", "message 1 has the role None"),
        ([{"role": "robot", "content": "x"}], "bad_messages", "message 1 has the role 'robot'"),
        ([{"role": "user", "content": None}], "bad_messages", "message 1 has no text"),
        ([{"role": "user", "content": " "}], "empty_prompt", "the last message is empty"),
        (TURNS[:2], "bad_messages", "the last message is of the assistant"),
        ([TURNS[0], {"role": "system", "content": "x"}, TURNS[2]], "bad_messages", "message 2 is a system message"),
    ],
)
def test_bad_messages_cost_that_row(value, code, says):
    error = row_error({"m": value}, messages="m")
    assert error.code == code and says in error.message


@given(st.text())
def test_any_text_arrives_unchanged(value):
    row = {"a": value}
    if not value.strip():
        assert row_error(row, template="{{ a }}").code == "empty_prompt"
    else:
        assert text("{{ a }}", row) == value


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x), max_leaves=8
    )
)
def test_any_value_of_a_messages_column_is_a_prompt_or_a_row_error(value):
    renderer = Renderer(job(messages="m"), ["m"])
    try:
        outcome = renderer.render("r", {"m": value}, 0).messages
    except RowError as error:
        outcome = error.code
    assert isinstance(outcome, tuple) or outcome in {"null_prompt", "empty_prompt", "bad_messages"}
