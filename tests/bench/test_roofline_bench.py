from __future__ import annotations

import json

import pytest

from dgbatch.bench.limits import here, step_s, text_of
from dgbatch.bench.roofline import RooflineBench, bench_roofline, columns, findings, table_rows
from dgbatch.engine import Engine
from dgbatch.errors import BenchError
from dgbatch.records import EngineConfig
from tests.cli.command import dgbatch


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load("demo", EngineConfig(canvases=1, threads=1))


def test_floors_of_the_real_model_need_no_checkpoint():
    told = bench_roofline(RooflineBench(), print)
    assert columns(told) == ("device", "format", "1", "2", "4", "8", "16")
    rows = table_rows(told)
    assert rows[0] == ("H200", "bf16", "12.9 1173", "15.2 2001", "19.7 3091", "28.8 4250", "51.2 4795")
    assert len(rows) == 9
    assert told["floors"][0]["autoregressive_wins_from"] == 76
    assert "prefix of 1,024 tokens" in findings(told)[0]


def test_command_prints_80_columns_and_draws(capfd, tmp_path):
    pytest.importorskip("matplotlib")
    out, picture = tmp_path / "roofline.json", tmp_path / "roofline.png"
    left = dgbatch(capfd, "bench", "roofline", "--out", str(out), "--plot", str(picture))
    assert left.code == 0
    assert max(map(len, left.out.splitlines())) <= 80
    assert "12.9 1173" in left.out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert json.loads(out.read_text())["floors"][0]["step_s"][0] == pytest.approx(0.0129, abs=5e-5)


def test_any_checkpoint_has_floors(capfd):
    told = dgbatch(capfd, "bench", "roofline", "--checkpoint", "demo", "--canvases", "2", "--json").json
    assert told["model"] == "demo"
    assert told["asked"]["canvases"] == [2]
    assert 0 < told["floors"][0]["step_s"][0] < 1e-3
    assert dgbatch(capfd, "bench", "roofline", "--checkpoint", "./nowhere").code == 2


def test_what_is_measured_stands_beside_the_floor(engine, monkeypatch, tmp_path):
    monkeypatch.setattr("dgbatch.bench.limits.step_s", lambda engine, canvases, prefix: (0.01 * canvases, prefix - 1))
    monkeypatch.setattr(Engine, "load", lambda checkpoint, config: engine)
    told = bench_roofline(RooflineBench(canvases=(1, 2), prefix=200, measure=True, threads=1), lambda line: None)
    assert told["model"] == "demo"
    measured = told["measured"]
    assert (measured["format"], measured["step_s"]) == ("float32", [0.01, 0.02])
    assert measured["share_of_floor"][0] == pytest.approx(measured["floor_s"][0] / 0.01)
    *known, here_row, reached, share = table_rows(told)
    assert all(cell.count(" ") == 0 for row in known for cell in row[2:])  # ms alone, as beside them
    assert not any("tokens/s" in line for line in findings(told))
    assert here_row[:2] == ("here", "float32")
    assert reached == ("reached", "float32", "10.0", "20.0")
    assert share[0] == "share"
    assert share[2].endswith("%")
    assert "GFLOP/s" in findings(told)[-1]
    picture = tmp_path / "measured.png"
    pytest.importorskip("matplotlib")
    from dgbatch.bench.plot import plot

    plot(told, picture)
    assert picture.stat().st_size > 1000


def test_limits_are_those_of_a_computer(engine, monkeypatch):
    monkeypatch.setattr("dgbatch.engine.limits.GEMM_SIZE", {"cpu": 64})
    limits, form = here(engine)
    assert form == "float32"
    assert 1e8 < limits.bytes_per_s < 1e13
    assert 1e8 < limits.flops_per_s[form] < 1e14


def test_a_step_is_the_slope_between_few_and_many(engine, monkeypatch):
    clock = iter([0.0, 9.0, 0.0, 5.0, 0.0, 1.0])  # warm-up, many, few
    monkeypatch.setattr("dgbatch.bench.limits.STEPS", (1, 3))
    monkeypatch.setattr("dgbatch.bench.limits.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr(Engine, "generate", lambda self, prompts: [Steps(one) for one in prompts])
    assert step_s(engine, 2, 100, repeats=1) == (2.0, text_of(engine, 100)[1])


class Steps:
    def __init__(self, prompt):
        self.denoise_steps = prompt.generation.max_denoising_steps


def test_no_canvas_settles_early_while_steps_are_measured(engine, monkeypatch):
    monkeypatch.setattr("dgbatch.bench.limits.STEPS", (2, 5))
    took, tokens = step_s(engine, 2, 60, repeats=1)
    assert took != 0
    assert tokens == 60


def test_a_prompt_of_a_length(engine):
    text, tokens = text_of(engine, 77)
    assert tokens == 77 == len(engine.tokenizer.encode_chat(({"role": "user", "content": text},)))
    with pytest.raises(BenchError, match="the chat template alone has"):
        text_of(engine, 2)


def test_a_dtype_without_a_roofline_is_refused(engine, monkeypatch):
    import torch

    monkeypatch.setattr(engine, "dtype", torch.float16)
    with pytest.raises(BenchError, match="float16"):
        here(engine)
