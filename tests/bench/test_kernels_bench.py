"""`dgbatch bench kernels`: the arithmetic of its report, and a dry run of all of it on a CPU."""

from __future__ import annotations

import json
import time

import pytest
import torch

from dgbatch.bench.kernels import report, rivals, run
from dgbatch.bench.kernels.__main__ import main
from dgbatch.bench.kernels.cases import TINY, cases
from dgbatch.bench.kernels.rivals import COMPILED, KERNEL, TWIN, Before, KnownSpan, rival, with_known_spans
from dgbatch.bench.kernels.seats import Company
from dgbatch.bench.stopwatch import one_thread
from dgbatch.errors import BenchError
from dgbatch.roofline import Device
from tests.bench.fake_gpu import GPU, FakeGpu
from tests.cli.command import dgbatch

H200 = Device("here", 4.0e12, {"bf16": 800e12})
COMPANY = Company.of(TINY, 1, prefix=30)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("dgbatch.bench.kernels.run.ceilings", lambda device, dtype, quick: H200)
    with one_thread(torch.device("cpu")):
        yield


def case_named(name: str):
    return next(case for case in cases(TINY) if case.name == name)


def timing(**changed) -> dict:
    usual = {
        "case": "linear qkv sliding", "operation": "linear", "canvases": 1, "kernel": "kernel", "bytes": 8e6,
        "flops": 1.6e9, "us": 4.0, "twin_us": 10.0, "compiled_us": 5.0, "limit_us": 2.0, "limited_by": "copy",
        "share": 0.5, "spread": 1.1, "notes": (),
    }  # fmt: skip
    return usual | changed


def told(*results: dict, dry_run: bool = False) -> dict:
    return {
        "benchmark": "kernels",
        "device": "NVIDIA H200",
        "dry_run": dry_run,
        "asked": {"turns": {"warm_ups": 20, "measured": 10}, "rounds": 5},
        "ceilings": {"copy_tb_s": 4.0, "bf16_tflop_s": 800.0},
        "empty_launch_us": 2.5,
        "results": list(results),
        "experts_pair": run.pair(results, H200),
    }


def test_a_limit_is_the_slower_of_copy_and_product():
    assert run.limit(8e6, 0.8e9, H200) == (2.0, "copy")  # 2 us of copying, 1 of products
    assert run.limit(4e6, 1.6e9, H200) == (2.0, "product")


def test_the_bar_of_the_experts_is_bytes_of_both_over_the_time_of_both():
    up = timing(operation="experts_up", bytes=1000e6, us=300.0)
    down = timing(operation="experts_down", bytes=520e6, us=100.0)
    both = run.pair([up, down], H200)
    assert both is not None
    assert both["us"] == 400.0
    assert both["tb_s"] == pytest.approx(3.8)
    assert both["share_of_copy"] == pytest.approx(0.95)
    assert run.pair([up], H200) is None
    assert run.pair([up, down | {"us": None}], H200) is None
    assert run.pair([up | {"canvases": 8}, down | {"canvases": 8}], H200) is None  # the bar is for 256 tokens


def test_table_and_sentences_say_what_was_measured_in_80_columns():
    up = timing(case="experts_up", operation="experts_up", bytes=1015e6, us=300.0)
    down = timing(case="experts_down", operation="experts_down", bytes=508e6, us=150.0, notes=("twin: slow",))
    wide = timing(case="linear attention out sliding", us=12345.0, twin_us=123456.0, share=None, compiled_us=None)
    said = told(timing(), up, down, wide)
    rows = report.table_rows(said)
    assert rows[0] == ("linear qkv sliding", "1", "4", "2", "50%", "8", "1.6", "10", "5")
    assert rows[3] == ("linear out sliding", "1", "12,345", "2", "-", "8", "1.6", "123,456", "-")
    lines = report.findings(said)
    assert any("medians of 50" in line for line in lines)
    assert any(line.startswith("Experts alone: 450 us, 3.38 TB/s, 85% of copy (bar 85%, aim 92%)") for line in lines)
    assert "twin: slow: experts_down 1" in lines
    from dgbatch.bench.plain import table

    assert max(map(len, (*table(report.COLUMNS, rows).splitlines(), *lines))) <= 80


@pytest.mark.parametrize(("us", "verdict"), [(390.0, "BELOW"), (374.0, "bar reached"), (340.0, "aim reached")])
def test_the_experts_are_held_against_bar_and_aim(us, verdict):
    up = timing(operation="experts_up", bytes=1.28e9, us=us - 40.0)
    down = timing(operation="experts_down", bytes=0.0, us=40.0)
    assert f"(bar 85%, aim 92%): {verdict}" in " ".join(report.findings(told(up, down)))


def test_a_dry_run_on_a_cpu_times_every_operation_and_claims_no_share():
    asked = run.KernelsBench.asking("cpu", True, (1,), None, (), True, "typed")
    said = run.bench_kernels(asked, lambda line: None)
    assert [one["case"] for one in said["results"]] == [case.name for case in cases(TINY)]
    assert all(one["us"] > 0 for one in said["results"])
    assert {(one["kernel"], one["share"], one["limit_us"], one["compiled_us"]) for one in said["results"]} == {
        ("twin", None, None, None)
    }
    assert [one["notes"] for one in said["results"] if one["notes"]] == []
    assert (said["dry_run"], said["experts_pair"], said["command"]) == (True, None, "typed")
    assert {"device", "driver", "versions", "date", "ceilings", "ceilings_after"} <= said.keys()
    rows = report.table_rows(said)
    assert {row[2] for row in rows} == {"twin"}
    assert "A dry run" in report.findings(said)[0]
    json.dumps(said)


def test_what_fails_is_told_and_the_others_are_timed(monkeypatch):
    def ready(case, *others):
        if case.operation == "gated":
            raise RuntimeError("no such\ninstruction")
        return real(case, *others)

    real = run._ready
    monkeypatch.setattr(run, "_ready", ready)
    asked = run.KernelsBench.asking("cpu", True, (1,), None, ("gated", "condition"), True, "")
    condition, gated = run.bench_kernels(asked, lambda line: None)["results"]
    assert condition["us"] > 0
    assert (gated["us"], gated["notes"]) == (None, ("arguments or timing: RuntimeError: no such",))


def test_every_round_begins_with_another_rival(monkeypatch):
    first: list[str] = []
    monkeypatch.setattr(run, "rounds", lambda dry: 3)
    names = (rivals.KERNEL, TWIN, COMPILED)
    monkeypatch.setattr(
        run, "_ready", lambda *_: [rivals.Rival(name, lambda name=name: first.append(name), False) for name in names]
    )
    monkeypatch.setattr(run, "turns", lambda dry: run.Turns(0, 1))
    asked = run.KernelsBench.asking("cpu", True, (1,), None, ("condition",), True, "")
    run.bench_kernels(asked, lambda line: None)
    assert "".join(name[0] for name in first) == "ktc" + "tck" + "ckt"


def test_what_an_operation_wrote_is_as_it_was_before_the_next_call():
    case = case_named("advance")
    arguments = case.arguments(COMPANY, torch.float32)
    before = Before(case, arguments)
    numbers = arguments[0].numbers
    was = numbers.clone()
    rival(TWIN, case, arguments).call()
    assert not torch.equal(numbers, was)
    before()
    assert torch.equal(numbers, was)


def test_twins_need_not_ask_the_device_how_long_a_span_is():
    *others, span = with_known_spans(case_named("gated").arguments(COMPANY, torch.float32))
    assert all(isinstance(one, torch.Tensor) for one in others)
    assert span == KnownSpan(0, COMPANY.span)
    assert span.tolist() == [0, COMPANY.span]


def test_a_compiled_twin_computes_what_the_twin_computes(monkeypatch):
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda twin, dynamic: compiler(twin, dynamic=dynamic, backend="eager"))
    case = case_named("linear MLP down")
    arguments = case.arguments(COMPANY, torch.float32)
    mine, theirs = (rival(name, case, arguments).call() for name in (TWIN, COMPILED))
    torch.testing.assert_close(mine[: COMPANY.span], theirs[: COMPANY.span], rtol=0, atol=0)


def test_an_operation_that_asks_the_device_nothing_is_timed_as_a_graph(monkeypatch):
    gpu = FakeGpu(monkeypatch)
    one = rivals._captured(KERNEL, gpu.work, GPU)
    assert one.captured
    assert gpu.said == ["work", "work", "work", "wait", "work", "capture", "work", "captured"]
    one.call()
    assert gpu.said[-1] == "replay"
    assert gpu.asking == "default"


def test_a_twin_that_asks_the_device_is_timed_without_a_graph_and_a_kernel_is_not_timed(monkeypatch):
    gpu = FakeGpu(monkeypatch)
    one = rivals._captured(TWIN, gpu.ask, GPU)
    assert not one.captured
    assert "capture" not in gpu.said
    assert gpu.asking == "default"
    with pytest.raises(RuntimeError, match="synchronizing"):
        rivals._captured(KERNEL, gpu.ask, GPU)
    assert gpu.asking == "default"


def test_rivals_that_fail_or_have_no_time_left_are_notes(monkeypatch):
    def made(name, case, arguments):
        if name == KERNEL:
            raise RuntimeError("out of resource: shared memory")
        return rivals.Rival(name, lambda: None, captured=name == COMPILED)

    monkeypatch.setattr(run, "rival", made)
    case, notes = case_named("condition"), []
    ready = run._ready(case, (), True, run.Allowance(10.0), notes)
    assert [one.name for one in ready] == [TWIN, COMPILED]
    assert notes == [
        "kernel: RuntimeError: out of resource: shared memory",
        "twin is not captured in a graph: its time has the host's in it",
    ]
    notes.clear()
    assert [one.name for one in run._ready(case, (), True, run.Allowance(0.0), notes)] == [TWIN]
    assert notes[-1] == "not compiled: no seconds left for it"


def test_compiling_spends_its_allowance_also_when_it_fails():
    allowance = run.Allowance(1.0)

    def fails() -> rivals.Rival:
        time.sleep(0.01)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        allowance.spend(fails)
    assert 0.5 < allowance.left_s < 0.99


def test_a_compiler_that_takes_too_long_is_a_note(monkeypatch):
    def made(name, case, arguments):
        time.sleep(5 if name == COMPILED else 0)
        return rivals.Rival(name, lambda: None, captured=True)

    monkeypatch.setattr(run, "rival", made)
    monkeypatch.setattr(run, "COMPILING_ONE_S", 0.05)
    notes = []
    begun = time.monotonic()
    ready = run._ready(case_named("condition"), (), True, run.Allowance(10.0), notes)
    assert time.monotonic() - begun < 3
    assert ([one.name for one in ready], notes) == ([KERNEL, TWIN], ["not compiled: it takes too long"])


def test_command_prints_80_columns_and_writes_what_it_says(capfd, tmp_path):
    out = tmp_path / "kernels.json"
    typed = ("bench", "kernels", "--tiny", "--device", "cpu", "--only", "linear", "--only", "route", "--out", str(out))
    left = dgbatch(capfd, *typed[:-4], "--out", str(out))
    assert left.code == 0
    assert max(map(len, left.out.splitlines())) <= 80
    assert "linear MLP down" in left.out
    assert {one["operation"] for one in json.loads(out.read_text())["results"]} == {"linear"}
    assert dgbatch(capfd, *typed).code == 2  # no kernel is called route


def test_module_runs_without_our_command_line(capsys, tmp_path):
    out = tmp_path / "kernels.json"
    assert main(["--tiny", "--device", "cpu", "--only", "condition", "--out", str(out)]) == 0
    assert "condition" in capsys.readouterr().out
    assert json.loads(out.read_text())["command"].startswith("python -m dgbatch.bench.kernels --tiny")
    assert main(["--device", "cpu"]) == 2
    assert "add --tiny" in capsys.readouterr().err
    assert main(["--tiny", "--device", "cpu", "--out", str(tmp_path / "nowhere" / "x.json")]) == 2


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"canvases": (0,)}, "from 1 on"),
        ({"prefix": 0}, "from 1 on"),
        ({"only": ("route",)}, "no kernel has that name"),
    ],
)
def test_what_cannot_be_is_refused(changed, what):
    usual = {
        "device": "cpu",
        "tiny": True,
        "canvases": None,
        "prefix": None,
        "only": (),
        "compile": True,
        "command": "",
    }
    with pytest.raises(BenchError, match=what):
        run.KernelsBench.asking(**(usual | changed))
