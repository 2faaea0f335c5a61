"""The job file: what it takes, and what it says to mistakes."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dgbatch.errors import JobError
from dgbatch.runner import job_yaml
from dgbatch.runner import spec as spec_module
from dgbatch.runner.complaints import inner_block
from dgbatch.runner.spec import JobSpec, load_job

TEMPLATE = Path(spec_module.__file__).with_name("template.yaml")

MINIMAL = """\
version: 1
name: test
model:
  checkpoint: demo
input:
  path: in.parquet
prompt:
  template: "{{ prompt }}"
output:
  path: out
"""


@pytest.fixture
def load(tmp_path):
    def load(text: str = MINIMAL, *overrides: str) -> JobSpec:
        (tmp_path / "job.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_job(str(tmp_path / "job.yaml"), overrides)

    return load


def refused(load, text: str = MINIMAL, *overrides: str) -> str:
    """The error's text without the file's name; it fits on a screen and quotes no library."""
    with pytest.raises(JobError) as caught:
        load(text, *overrides)
    message = str(caught.value)
    assert len(message.splitlines()) <= 12 and len(message) < 2000
    assert "pydantic" not in message and "Traceback" not in message
    assert caught.value.exit_code == 2
    return message.split("job.yaml: ", 1)[-1]


def test_defaults_are_filled_in(load):
    spec = load()
    assert spec.generation.samples == 1 and spec.generation.seed == 0 and spec.generation.max_new_tokens is None
    assert spec.workers.count == "auto" and spec.workers.shard_rows == 512 and spec.workers.address == "local"
    assert spec.output.format == "parquet" and spec.accept is None
    assert spec.retry.shard_attempts == 3 and spec.retry.max_failed_ratio == 1.0


def test_every_field_is_documented():
    def check(model, path):
        for name, field in model.model_fields.items():
            assert field.description, f"{path}{name} has no description"
            inner = inner_block(field.annotation)
            if inner is not None:
                check(inner, f"{path}{name}.")

    check(JobSpec, "")


def test_job_does_not_change_after_loading(load):
    spec = load()
    for block in (spec, spec.model, spec.generation, spec.workers):
        with pytest.raises(Exception, match="frozen"):
            setattr(block, next(iter(type(block).model_fields)), "x")


def test_template_of_init_runs_the_demo():
    spec = load_job(str(TEMPLATE))
    assert spec.model.checkpoint == "demo" and spec.input.path == "demo" and spec.input.id == "id"
    assert spec.accept.rules[0].equals == "answer" and spec.output.columns == ("answer",)
    assert spec.output.path == str(TEMPLATE.parent / "out" / "demo")


def test_template_of_init_shows_every_key_with_a_value_that_is_valid(load):
    key = re.compile(r"^( *)# ?( *[a-z_]+:(?: .*)?)$")  # a key that is commented out
    lines = [key.sub(r"\1\2", line) for line in TEMPLATE.read_text().splitlines()]
    text = "\n".join(line for line in lines if not line.strip().startswith("messages:"))
    spec = load(text)
    shown = job_yaml.parse(text)[0]
    assert set(shown) == set(JobSpec.model_fields)
    for block in set(shown) - {"version", "name"}:
        assert set(shown[block]) == set(type(getattr(spec, block)).model_fields) - {"messages"}


def test_unknown_key_names_its_path_its_line_and_the_nearest_key(load):
    text = MINIMAL + "generation:\n  sampels: 2\n"
    assert refused(load, text) == "line 12: generation.sampels: unknown key. Did you mean generation.samples?"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("outptu: {}", "outptu: unknown key. Did you mean output?"),
        ("seed: 1", "seed: unknown key. Did you mean generation.seed?"),
        ("path: x", "path: unknown key. Did you mean input.path or output.path?"),
        ("workers: {gpu: 1}", "workers.gpu: unknown key. Did you mean workers.gpus?"),
        ("workers: {colour: red}", "workers.colour: unknown key. workers has: count, gpus, canvases,"),
        ("zzz: 1", "zzz: unknown key. A job has: version, name, model,"),
        ("accept: {rules: [{equls: a}]}", "accept.rules[0].equls: unknown key. Did you mean accept.rules[0].equals?"),
        ("accept: {rule: []}", "accept.rule: unknown key. Did you mean accept.rules?"),
    ],
)
def test_unknown_keys_are_refused_at_any_depth(load, line, says):
    assert says in refused(load, MINIMAL + line + "\n")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("generation.seed=x", "generation.seed: 'x' is text; it takes a whole number of at least 0."),
        ("generation.seed=1.5", "generation.seed: 1.5 is a number; it takes a whole number"),
        ("generation.seed=true", "generation.seed: true is true or false; it takes a whole number"),
        ("generation.seed=-1", "generation.seed: -1 must be at least 0."),
        ("generation.seed=9223372036854775808", "must be less than 9,223,372,036,854,775,808."),
        ("generation.samples=0", "generation.samples: 0 must be at least 1."),
        ("generation.temperature_start=0", "generation.temperature_start: 0 must be at least 1e-06."),
        ("generation.temperature_start=cold", "'cold' is text; it takes a number"),
        ("generation.stop=x", "generation.stop: 'x' is text; it takes a list, each of text."),
        ("generation.stop=[1]", "generation.stop[0]: 1 is a whole number; it takes text. Put it in quotes."),
        ("generation=[]", "generation: [] is a list; it takes a block with the keys max_new_tokens,"),
        ("prompt.thinking=yes", "prompt.thinking: 'yes' is text; it takes true or false."),
        ("prompt.messages=turns", "has both. Give either template"),
        ("prompt.template=null", "has neither. Give either template"),
        ("prompt.template='  '", "template is blank"),
        ("workers.count=0", "workers.count: 0 is a whole number; it takes a whole number of at least 1 or auto."),
        ("workers.count=many", "workers.count: 'many' is text; it takes a whole number of at least 1 or auto."),
        ("output.format=csv", "output.format: 'csv' is text; it takes parquet or arrow."),
        ("output.path=", "output.path: has no value. It takes text."),
        ("output.path=''", "output.path: '' must not be empty."),
        ("output.columns=[a, b, a]", "columns names 'a' twice"),
        ("accept.rules=[]", "accept.rules: [] must not be empty."),
        ("accept.rules=[{equals: a}, {equals: a}]", "the same rule stands there twice"),
        ("accept.rules=[{}]", "accept.rules[0].equals: missing. It takes text."),
        ("retry.max_failed_ratio=1.5", "retry.max_failed_ratio: 1.5 must be at most 1."),
        ("name=a b", "name: 'a b' does not fit. Letters, digits, dots"),
        ("version=2", "version: 2 is a whole number; it takes 1."),
        ("model=null", "model: has no value. It takes a block with the keys checkpoint,"),
        ("input.limit=0", "input.limit: 0 must be at least 1."),
    ],
)
def test_wrong_values_are_refused_in_plain_sentences(load, override, says):
    assert says in refused(load, MINIMAL, override)


def test_missing_blocks_say_what_they_take(load):
    message = refused(load, "version: 1\nname: x\n")
    assert message.startswith("4 problems\n")
    assert (
        "input: missing. It takes a block with the keys path, id, where, limit. Where the prompts come from." in message
    )


def test_many_problems_stay_on_one_screen(load):
    message = refused(load, MINIMAL + "\n".join(f"key{n}: {n}" for n in range(50)))
    assert message.startswith("50 problems") and message.endswith("and 42 more")


def test_long_value_is_shown_short(load):
    assert len(refused(load, MINIMAL, f"generation.seed={'x' * 5000}")) < 200


def test_number_where_text_belongs_is_told_to_be_quoted(load):
    message = refused(load, MINIMAL.replace("name: test", "name: 3.10"))
    assert message == "line 2: name: 3.1 is a number; it takes text. Put it in quotes."


def test_yaml_guesses_nothing(load):
    spec = load(MINIMAL.replace("name: test", "name: no") + "generation: {temperature_start: 1e-3, seed: 1_000}\n")
    assert spec.name == "no" and spec.generation.temperature_start == 0.001 and spec.generation.seed == 1000
    assert job_yaml.parse("[yes, on, 3:10, 010, 0x1f, 2026-01-01, null, ~, -3, +.5, 1.e3, TRUE]")[0] == [
        "yes", "on", "3:10", "010", "0x1f", "2026-01-01", None, None, -3, 0.5, 1000.0, True,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the job file is empty"),
        ("# only a comment\n", "the job file is empty"),
        ("- a\n", "holds a list, not keys and values"),
        ("hello\n", "holds plain text, not keys and values"),
        ("a: 1\n  b: 2\n", "line 2, column 4: not valid YAML"),
        ("a: [1, 2\n", "not valid YAML"),
        ("name: a\nname: b\n", "line 2: the key 'name' is written twice in the same block. Remove one."),
        ("input:\n  path: a\n  id: b\n  path: c\n", "line 4: the key 'path' is written twice"),
        ("template: {{ prompt }}\n", "line 1: a key is a list or a block. Put quotes around text that begins with {"),
        ("? [a]\n: 1\n", "a key is a list or a block"),
        ("a: &x 1\nb: *x\n", "line 2: *x refers to another part of the file"),
        ("a: !!python/object:os.system 1\n", "not valid YAML"),
        ("a: !secret 1\n", "not valid YAML"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
        ("a: b\0\n", "not YAML text"),
        ("[" * 5000, "nested more than 16 deep"),
        ("a: " + "[" * 17 + "]" * 17, "nested more than 16 deep"),
        ("\n".join(" " * depth + "a:" for depth in range(40)), "nested more than 16 deep"),
        ("a: " + "9" * 5000, "a value does not parse"),
    ],
)
def test_yaml_that_is_no_job_is_refused(load, text, says):
    assert says in refused(load, text)


def test_anchors_that_would_unfold_are_refused_before_they_do(load):
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
    assert "refers to another part of the file" in refused(load, bomb)


def test_text_that_is_not_utf8_is_refused(load):
    assert "not " in refused(load, b"name: \xff\xfe\xfa\n")


def test_huge_job_file_is_refused_unread(load, tmp_path):
    assert "a job file holds at most 1,048,576" in refused(load, "a: " + "x" * (1 << 20))
    with pytest.raises(job_yaml.YamlError, match="holds at most"):
        job_yaml.parse("x" * ((1 << 20) + 1))


def test_job_file_that_is_not_there(tmp_path):
    with pytest.raises(JobError, match=r"no such job file.*dgbatch init"):
        load_job(str(tmp_path / "none.yaml"))
    with pytest.raises(JobError, match=r"a folder, not a job file"):
        load_job(str(tmp_path))
    with pytest.raises(JobError, match="cannot be read"):
        load_job(str(tmp_path / ("x" * 300)))


def test_relative_paths_begin_at_the_job_file(load, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    spec = load(MINIMAL, "output.duckdb=../all.duckdb", "model.checkpoint=./weights")
    assert spec.input.path == str(tmp_path / "in.parquet")
    assert spec.output.path == str(tmp_path / "out")
    assert spec.output.duckdb == str(tmp_path.parent / "all.duckdb")
    assert spec.model.checkpoint == str(tmp_path / "weights")


def test_checkpoint_is_a_hub_id_unless_it_is_a_folder(load, tmp_path):
    assert load(MINIMAL, "model.checkpoint=google/some-model").model.checkpoint == "google/some-model"
    (tmp_path / "google" / "some-model").mkdir(parents=True)
    folder = str(tmp_path / "google" / "some-model")
    assert load(MINIMAL, "model.checkpoint=google/some-model").model.checkpoint == folder
    assert load(MINIMAL, "input.path=demo").input.path == "demo"
    assert load(MINIMAL, "input.path=s3://bucket//x").input.path == "s3://bucket//x"


def test_variable_is_read_and_never_written(load, monkeypatch):
    monkeypatch.setenv("SECRET", "s3://hunter2")
    spec = load(MINIMAL, "input.path=${SECRET}/in.parquet")
    assert spec.input.path == "s3://hunter2/in.parquet"
    assert spec.public()["input"]["path"] == "${SECRET}/in.parquet"
    assert "hunter2" not in json.dumps(spec.public()) and "hunter2" not in repr(spec)
    again = pickle.loads(pickle.dumps(spec))
    assert again.input.path == spec.input.path and again.public() == spec.public()


def test_variable_with_a_relative_path_begins_at_the_job_file(load, monkeypatch, tmp_path):
    monkeypatch.setenv("DATA", "data")
    assert load(MINIMAL, "input.path=${DATA}/a").input.path == str(tmp_path / "data" / "a")
    monkeypatch.setenv("DATA", "/data")
    assert load(MINIMAL, "input.path=${DATA}/a").input.path == "/data/a"


def test_missing_variable_is_named(load, monkeypatch):
    monkeypatch.delenv("NOT_THERE", raising=False)
    assert refused(load, MINIMAL, "output.path=${NOT_THERE}/x") == (
        "output.path: the environment variable NOT_THERE is not set. Run: export NOT_THERE=..."
    )
    monkeypatch.setenv("NOT_THERE", "")
    assert "NOT_THERE is empty" in refused(load, MINIMAL, "output.path=${NOT_THERE}/x")


def test_secret_stays_out_of_errors_about_other_keys(load, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    assert "hunter2" not in refused(load, MINIMAL, "input.path=s3://${SECRET}@x", "input.idd=1", "prompt=3")


def test_dollar_braces_outside_locations_are_text(load):
    assert load(MINIMAL, "prompt.template=print ${x}").prompt.template == "print ${x}"


def test_public_job_loads_again_as_it_was(load, monkeypatch):
    monkeypatch.setenv("SECRET", "s3://x")
    spec = load(MINIMAL, "output.path=${SECRET}", "generation.stop=[a, b]", "accept.rules=[{equals: answer}]")
    again = JobSpec.from_public(json.loads(json.dumps(spec.public())))
    assert again == spec and again.public() == spec.public()
    monkeypatch.delenv("SECRET")
    assert JobSpec.from_public(spec.public()).output.path == "${SECRET}"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("generation.seed", "--set generation.seed: not of the form key.path=value"),
        ("=1", "not of the form key.path=value"),
        ("generation..seed=1", "not of the form key.path=value"),
        ("name.first=1", "name is a value and has no keys inside"),
        ("generation.seed=[", "--set generation.seed=[: line 2, column 1: not valid YAML"),
        ("generation.sed=1", "generation.sed: unknown key. Did you mean generation.seed?"),
        ("nothing.here=1", "nothing: unknown key"),
    ],
)
def test_bad_overrides_are_refused(load, override, says):
    with pytest.raises(JobError) as caught:
        load(MINIMAL, override)
    assert says in str(caught.value)


def test_override_of_text_is_taken_as_it_is(load):
    spec = load(
        MINIMAL, "prompt.template={{ a }}: # {b}", "name=3.10", "input.where=\"id\" = 'x'", "model.revision=1e3"
    )
    assert spec.prompt.template == "{{ a }}: # {b}"
    assert spec.name == "3.10" and spec.model.revision == "1e3" and spec.input.where == "\"id\" = 'x'"


def test_override_can_take_a_value_away(load):
    assert load(MINIMAL + "accept: {rules: [{equals: a}]}\n", "accept=null").accept is None
    assert load(MINIMAL.replace("in.parquet", "in.parquet\n  id: a"), "input.id=").input.id is None


def test_later_override_wins(load):
    assert load(MINIMAL, "generation.seed=1", "generation.seed=2").generation.seed == 2


PLAIN = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)


@given(
    seed=st.integers(0, 2**63 - 1),
    temperature=st.none() | st.floats(1e-6, 1e6),
    thinking=st.booleans(),
    stop=st.lists(PLAIN, max_size=3),
    where=st.none() | PLAIN,
    count=st.just("auto") | st.integers(1, 10_000),
)
def test_overrides_round_trip(tmp_path_factory, seed, temperature, thinking, stop, where, count):
    path = tmp_path_factory.getbasetemp() / "round-trip.yaml"
    path.write_text(MINIMAL)
    overrides = {
        "generation.seed": seed,
        "generation.temperature_start": temperature,
        "prompt.thinking": thinking,
        "generation.stop": stop,
        "input.where": where,
        "workers.count": count,
    }
    spec = load_job(str(path), [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in overrides.items()])
    assert spec.generation.seed == seed and spec.generation.temperature_start == temperature
    assert spec.prompt.thinking is thinking and spec.generation.stop == tuple(stop)
    assert spec.input.where == where and spec.workers.count == count


JSON_LIKE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | PLAIN,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(PLAIN, inside, max_size=3),
    max_leaves=10,
)


@given(JSON_LIKE)
def test_parser_reads_what_yaml_wrote(value):
    assert job_yaml.parse(json.dumps(value, ensure_ascii=False))[0] == value
    assert job_yaml.parse(yaml.safe_dump(value, allow_unicode=True))[0] == value


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_parser_either_reads_or_refuses(text):
    with contextlib.suppress(job_yaml.YamlError):
        job_yaml.parse(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)


@given(st.dictionaries(st.sampled_from([*JobSpec.model_fields, "x"]), JSON_LIKE, max_size=6))
def test_any_data_is_a_job_or_a_plain_refusal(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(json.dumps(data))
    with pytest.raises(JobError) as caught:
        load_job(str(path))
    assert len(str(caught.value).splitlines()) <= 12


def test_several_problems_come_in_the_order_of_their_lines(tmp_path):
    (tmp_path / "job.yaml").write_text("workers: {count: 0}\nversion: 2\nname: x\ncolour: red\n")
    with pytest.raises(JobError) as error:
        load_job(tmp_path / "job.yaml")
    starts = [line.split(":")[0].strip() for line in str(error.value).splitlines()[1:]]
    assert starts == ["line 1", "line 2", "line 4", "model", "input", "prompt", "output"]


@pytest.mark.parametrize(
    "push", ["${GATEWAY}", "http://${HOST_OF_IT}:${PORT_OF_IT}", "http://me:${PASSWORD_OF_IT}@gateway"]
)
def test_a_run_is_read_where_the_variables_of_its_gateway_are_not_set(load, monkeypatch, push):
    said = {"GATEWAY": "http://gateway:9091", "HOST_OF_IT": "gateway", "PORT_OF_IT": "9091", "PASSWORD_OF_IT": "secret"}
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    written = load(MINIMAL, f"metrics.push={push}").public()
    for name in said:
        monkeypatch.delenv(name)
    assert JobSpec.from_public(written).metrics.push == push
