"""A few prompts as the model will read them."""

from __future__ import annotations

import subprocess
import sys

import pyarrow as pa
import pytest

from dgbatch.errors import CheckpointError
from dgbatch.runner.plan import make_plan
from dgbatch.runner.preview import Rendered, preview

TURNS = (
    "{% for turn in messages %}<{{ turn['role'] }}>{{ turn['content'] }}{% endfor %}"
    "{% if enable_thinking %}<think>{% endif %}"
)


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with a tokenizer of one token per character, and a chat template."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    folder = tmp_path / "checkpoint"
    folder.mkdir()
    tokenizer = Tokenizer(models.WordLevel({"?": 0, "a": 1}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TURNS)
    return str(folder)


def test_prompts_are_shown_with_the_chat_template_and_counted(make_job, some_rows, checkpoint):
    spec = make_job(some_rows(9), f"model.checkpoint={checkpoint}", "input.id=id", "prompt.thinking=true")
    assert preview(spec, make_plan(spec), count=2) == [
        Rendered("r0", "<user>What is 0?<think>", 23),
        Rendered("r1", "<user>What is 1?<think>", 23),
    ]


def test_preview_goes_over_shard_borders_and_stops_at_the_end(make_job, some_rows, checkpoint):
    spec = make_job(some_rows(3), f"model.checkpoint={checkpoint}", "workers.shard_rows=1")
    assert [shown.id for shown in preview(spec, make_plan(spec), count=9)] == [f"in.parquet:0:{n}" for n in range(3)]


def test_bad_row_shows_its_error(make_job, checkpoint):
    spec = make_job(pa.table({"prompt": ["", None, "a"]}), f"model.checkpoint={checkpoint}")
    empty, null, good = preview(spec, make_plan(spec))
    assert empty.error.startswith("empty_prompt: ") and empty.tokens is None
    assert null.error.startswith("null_prompt: ") and null.text == ""
    assert good == Rendered("in.parquet:0:2", "<user>a", 7)


def test_settings_of_a_rows_own_are_shown_and_wrong_ones_are_its_error(make_job, checkpoint):
    rows = pa.table({"prompt": ["a"] * 3, "own": ['{"seed": 3, "stop": ["x"], "greedy": null}', None, '{"seed": -1}']})
    spec = make_job(rows, f"model.checkpoint={checkpoint}", "generation.overrides=own")
    said, silent, wrong = preview(spec, make_plan(spec))
    assert said == Rendered("in.parquet:0:0", "<user>a", 7, generation={"seed": 3, "stop": ["x"]})
    assert silent == Rendered("in.parquet:0:1", "<user>a", 7)
    assert wrong.error == "bad_generation: column 'own': seed: -1 must be at least 0."


def test_hub_id_that_is_not_here_shows_prompts_uncounted(make_job, some_rows, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    spec = make_job(some_rows(1), "model.checkpoint=nobody/nothing", "prompt.system=Be brief.")
    assert preview(spec, make_plan(spec)) == [Rendered("in.parquet:0:0", "system: Be brief.\n\nuser: What is 0?", None)]


def test_wrong_checkpoint_folder_is_an_error(make_job, some_rows, tmp_path):
    spec = make_job(some_rows(1), f"model.checkpoint={tmp_path}")
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        preview(spec, make_plan(spec))
    spec = make_job(None, "model.checkpoint=./nowhere")
    with pytest.raises(CheckpointError, match="no folder"):
        preview(spec, make_plan(spec))


def test_without_the_engine_packages_prompts_are_shown_uncounted(make_job, some_rows, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.delitem(sys.modules, "dgbatch.engine.tokenizer", raising=False)
    spec = make_job(some_rows(1))
    assert preview(spec, make_plan(spec)) == [Rendered("in.parquet:0:0", "user: What is 0?", None)]
    spec = make_job(pa.table({"prompt": ["a"], "own": ['{"seed": 3}']}), "generation.overrides=own")
    assert preview(spec, make_plan(spec)) == [Rendered("in.parquet:0:0", "user: a", None, generation={"seed": 3})]


def test_job_side_needs_no_torch_and_no_ray():
    code = (
        "import sys; import dgbatch.runner.plan, dgbatch.runner.spec, dgbatch.runner.preview, dgbatch.engine.tokenizer;"
        "print(sorted({'torch', 'ray', 'duckdb'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
