"""`dgbatch bench kernels --sweep`: its candidates, how they replace what a kernel chooses, its report, a dry run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from importlib import import_module
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: pip install 'dgbatch[kernels]'")

from dgbatch.bench.kernels import candidates, sweep, sweep_report
from dgbatch.bench.kernels.__main__ import main
from dgbatch.bench.kernels.candidates import CHOICE, SWEEPS, Sweep, other_order
from dgbatch.bench.kernels.cases import REAL, TINY, cases
from dgbatch.bench.kernels.likeness import likeness
from dgbatch.bench.kernels.replaced import launched, replaced
from dgbatch.bench.kernels.seats import Company
from dgbatch.bench.kernels.sweep import OTHER_ORDER, SAME, SKIPPED, WRONG, SweepBench, Trial, bench_sweep
from dgbatch.engine.kernels import attend, experts_up, linear, soft_rows
from dgbatch.errors import BenchError
from dgbatch.roofline import Device
from tests.cli.command import dgbatch

H200 = Device("here", 4.0e12, {"bf16": 800e12})
LISTS = [(one, canvases) for one in SWEEPS for canvases in (1, 8)]
IDS = [f"{one.case} {canvases}" for one, canvases in LISTS]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(sweep, "ceilings", lambda device, dtype, quick: H200)


def chosen(one: Sweep, canvases: int, shape=REAL) -> dict[str, int | None]:
    """What the kernel's own function says at that size on Hopper, with the constants that the table names."""
    module = import_module(f"dgbatch.engine.kernels.{one.operation}")
    case = next(case for case in cases(shape) if case.name == one.case)
    arguments = case.arguments(Company.of(shape, canvases), torch.bfloat16, "meta")
    seen = []

    def choose(*given):
        seen.append(own(*given))
        raise LookupError

    own = getattr(module, CHOICE[one.operation])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, CHOICE[one.operation], choose)
        with pytest.raises(LookupError):
            getattr(module, one.operation)(*arguments)
    fields = seen[0]._asdict() if hasattr(seen[0], "_asdict") else vars(seen[0])
    return {name: getattr(module, name) for name in one.at(canvases)[0] if name.isupper()} | fields


@pytest.mark.parametrize(("one", "canvases"), LISTS, ids=IDS)
def test_the_first_candidate_is_what_the_kernel_chooses(one, canvases):
    assert one.at(canvases)[0] == chosen(one, canvases)


@pytest.mark.parametrize(("one", "canvases"), LISTS, ids=IDS)
def test_the_others_change_fields_that_the_kernel_has_and_each_something_else(one, canvases):
    now, *others = one.at(canvases)
    made = [dict(now)] + [dict(now) | dict(changes) for changes in others]
    assert others
    assert all(changes.keys() <= now.keys() for changes in others)
    assert [first for first, second in combinations(made, 2) if first == second] == []


def test_every_kernel_whose_blocks_are_a_choice_is_in_the_table_in_the_order_of_worth():
    operations = list(dict.fromkeys(one.operation for one in SWEEPS))
    assert operations == ["experts_up", "experts_down", "attend", "linear", "head", "soft_rows", "gated"]
    swept = {case.name for case in cases(REAL) if case.operation in operations}
    assert {one.case for one in SWEEPS} == swept == {case.name for case in cases(TINY) if case.operation in operations}


def test_marks_are_of_candidates_that_there_are():
    listed = [
        (name, dict(changes))
        for one in SWEEPS
        for changes in (*one.one[1:], *one.many[1:])
        for name in (one.case, one.operation)
    ]
    known = [(name, dict(changes)) for name, told in candidates.MARKED.items() for changes, _ in told]
    assert [one for one in known if one not in listed] == []


def test_what_is_known_against_a_candidate_is_found_by_case_and_by_operation(monkeypatch):
    sliding, full = (next(one for one in SWEEPS if one.case == f"attend {kind}") for kind in ("sliding", "full"))
    known = {"attend full": (({"SPLITS": 4}, "spills"),), "attend": (({"SPLITS": 3}, "does not fit"),)}
    monkeypatch.setattr(candidates, "MARKED", known)
    assert [candidates.marked(one, {"SPLITS": 4}) for one in (sliding, full)] == [None, "spills"]
    assert [candidates.marked(one, {"SPLITS": 3}) for one in (sliding, full)] == ["does not fit"] * 2
    assert candidates.marked(full, {}) is None


def test_a_candidate_says_whether_it_adds_in_another_order():
    up, down, *looks = SWEEPS[:4]
    assert other_order(up, 1, {"BLOCK_K": 128, "BLOCK_I": 32})
    assert not other_order(up, 1, {"BLOCK_K": 64, "few_stages": 3})  # K as it is
    assert not other_order(down, 8, {"turns": 3})
    assert other_order(looks[0], 1, {"SPLITS": 1})
    assert not other_order(looks[0], 1, {})


@pytest.mark.parametrize(
    ("operation", "changes", "module", "arguments", "now"),
    [
        ("experts_up", {"few_stages": 3, "BLOCK_I": 32}, experts_up, (16, 90), ("BLOCK_I", 64)),
        ("linear", {"warps": 4, "BLOCK_ROWS": 64}, linear, (256, 2816, 90), ("BLOCK_ROWS", 128)),
        ("attend", {"stages": 3, "SPLITS": 4}, attend, (256, 2, 512, 90), ("SPLITS", 2)),
        ("soft_rows", {"warps": 2, "SPLITS": 12}, soft_rows, (256, 2, 90), ("SPLITS", 6)),
    ],
)
def test_what_a_kernel_chooses_is_replaced_and_put_back_also_after_a_failure(
    operation, changes, module, arguments, now
):
    constant, value = now
    own = getattr(module, CHOICE[operation])
    before = own(*arguments)
    fields = {name: changed for name, changed in changes.items() if name.islower()}
    seen = []

    def fails():
        seen.extend((getattr(module, CHOICE[operation])(*arguments), getattr(module, constant)))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), replaced(operation, changes):
        fails()
    assert {name: getattr(seen[0], name) for name in fields} == fields
    assert (seen[0] != before, seen[1]) == (True, changes[constant])
    assert changes[constant] != value
    assert getattr(module, CHOICE[operation]) is own
    assert getattr(module, constant) == value


def test_a_field_that_no_kernel_has_is_an_error_and_changes_nothing():
    own = experts_up.token_tiles
    with pytest.raises(AttributeError), replaced("experts_up", {"BLOCK_I": 32, "BLOCK_J": 1}):
        pass
    with pytest.raises(ValueError, match="unexpected field"), replaced("experts_up", {"fewer": 1}):
        experts_up.token_tiles(16, 90)
    assert (experts_up.token_tiles, experts_up.BLOCK_I) == (own, 64)


def test_blocks_of_rows_divide_a_tile_of_a_tiny_shape_too():
    with replaced("soft_rows", {"block_rows": 128}):
        assert soft_rows.config(64, 2, 90).block_rows == 64
    with replaced("attend", {"block_rows": 128}):
        assert attend.config(256, 2, 192, 90).block_rows == 64


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_candidate_computes_what_the_kernel_computes_in_the_interpreter():
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.interpreted_candidates"],
        cwd=Path(__file__).parents[2], env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert {one["case"].split()[0] for one in told} == set(CHOICE)
    # float32; the head's e is exp of a logit that is divided by a temperature of 0.4
    assert [one for one in told if not one["largest"] <= 2e-5] == []


def test_programs_that_were_launched_are_seen(monkeypatch):
    from triton.runtime.jit import JITFunction

    monkeypatch.setattr(JITFunction, "run", lambda kernel, *arguments, **options: "program")
    own = JITFunction.run
    with launched() as programs:
        linear._linear[(1,)]()
    assert programs == ["program"]
    assert JITFunction.run is own


def test_bits_and_differences_between_two_results():
    ours, theirs = {"y": torch.tensor([1.0, -3.0])}, {"y": torch.tensor([1.0, -3.0])}
    assert likeness(ours, theirs) == (True, 0.0)
    ours["y"][1] = -2.0
    same, largest = likeness(ours, theirs)
    assert not same
    assert largest == pytest.approx(1 / (3 + 5**0.5))  # of -3 and the root of (1 + 9) / 2
    ours["y"][1] = float("nan")
    assert likeness(ours, theirs) == (False, float("inf"))
    never = {"m": torch.tensor([-torch.inf, 2.0]), "at": torch.tensor([0, 1])}
    assert likeness({"m": torch.tensor([-torch.inf, 2.0]), "at": torch.tensor([0, 2])}, never) == (False, 0.0)
    holes = [{"y": torch.tensor([float("nan"), value])} for value in (1.0, 2.0)]
    assert likeness(*holes) == (False, pytest.approx(1 / (2 + 2**0.5)))
    assert likeness({"y": torch.tensor([0.0])}, {"y": torch.tensor([-0.0])}) == (False, 0.0)


@pytest.mark.parametrize(
    ("moved", "declared", "bits"),
    [
        (0.0, False, SAME),
        (0.0, True, OTHER_ORDER),
        (0.01, True, OTHER_ORDER),
        (0.01, False, OTHER_ORDER),
        (1, True, WRONG),
    ],
)
def test_a_candidate_is_judged_by_its_bits(moved, declared, bits):
    case = next(case for case in cases(TINY) if case.name == "gated")
    trial, theirs = Trial({"warps": 4}), {"inner": torch.ones(4)}
    sweep._compare(trial, case, {"inner": theirs["inner"] + moved}, theirs, declared)
    assert trial.bits == bits
    assert bool(trial.reason) == (bits == WRONG or (moved > 0 and not declared))


def asked(*only: str, limit_s: float | None = None) -> SweepBench:
    return SweepBench.asking("cpu", True, None, None, only, limit_s, "typed")


@pytest.mark.slow
def test_a_dry_run_tries_every_candidate_over_twins():
    kept = []
    told = bench_sweep(asked(), lambda line: None, kept.append)
    names = [(one["case"], one["canvases"]) for one in told["results"]]
    assert names == [(one.case, canvases) for one in SWEEPS for canvases in (1, 2)]
    trials = [trial for one in told["results"] for trial in one["trials"]]
    assert len(trials) == sum(len(one.one) + len(one.many) for one in SWEEPS)
    assert [trial["reason"] for trial in trials if trial["reason"]] == []
    assert {(trial["us"] > 0, trial["share"], trial["difference"]) for trial in trials} == {(True, None, 0.0)}
    assert all(one["trials"][0]["changes"] == {} and one["trials"][0]["bits"] == SAME for one in told["results"])
    assert len(kept) == len(names) + 1
    lines = [*sweep_report.tables(told), *sweep_report.findings(told)]
    assert max(map(len, lines)) <= 80
    assert any("A dry run" in line for line in lines)
    json.dumps(told)


def test_what_fails_is_told_with_its_reason_and_the_others_are_timed(monkeypatch):
    def ready(name, case, arguments):
        if experts_up.token_tiles(16, 90).few_stages == 4:
            raise RuntimeError("out of resource: shared memory, Required: 300000\nmore")
        return real(name, case, arguments)

    real = sweep.rival
    monkeypatch.setattr(sweep, "rival", ready)
    told = bench_sweep(asked("experts_up"), lambda line: None)
    trials = told["results"][0]["trials"]
    failed = [trial for trial in trials if trial["us"] is None]
    assert {trial["changes"]["few_stages"] for trial in failed} == {4}
    assert {trial["reason"] for trial in failed} == {
        "kernel: RuntimeError: out of resource: shared memory, Required: 300000"
    }
    assert 0 < len(sweep_report.by_time(trials)) == len(trials) - len(failed) < len(trials)
    assert "few x4" in " ".join(sweep_report.tables(told))


def test_programs_are_told_with_what_they_spill(monkeypatch):
    @contextmanager
    def seen():
        metadata = SimpleNamespace(name="_gated", num_warps=8, shared=131072)
        yield [SimpleNamespace(metadata=metadata, n_regs=255, n_spills=12), SimpleNamespace()]

    monkeypatch.setattr(sweep, "launched", seen)
    one = bench_sweep(asked("gated"), lambda line: None)["results"][0]["trials"][1]
    gated, unknown = one["programs"]
    assert gated == {"kernel": "_gated", "warps": 8, "registers": 255, "spilled_words": 12, "shared": 131072}
    assert set(unknown.values()) == {None}
    assert (one["us"] > 0, one["reason"]) == (True, "spills 12 words of a thread")
    (row,) = (row for row in sweep_report.tables({"results": [result(one)]}) if "columns" in row and "same" in row)
    assert row.split()[-2:] == ["255", "128"]


def test_after_the_limit_nothing_is_begun_and_the_rest_is_listed(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(sweep, "time", SimpleNamespace(monotonic=lambda: now[0]))
    real = sweep._run

    def run(*given):
        now[0] += 1
        return real(*given)

    monkeypatch.setattr(sweep, "_run", run)
    told = bench_sweep(asked("experts_up", limit_s=3.0), lambda line: None)
    reasons = [trial["reason"] for one in told["results"] for trial in one["trials"]]
    assert reasons == [None] * 3 + [SKIPPED] * (len(reasons) - 3)
    assert [trial["us"] is None for trial in told["results"][0]["trials"]][:4] == [False, False, False, True]
    assert f"{len(reasons) - 3} candidates were skipped after 3 s" in " ".join(sweep_report.findings(told))


def test_a_device_that_fails_ends_the_sweep(monkeypatch):
    def failed(device, trial):
        raise sweep.DeviceFailed("skipped: the device failed before")

    def ready(name, case, arguments):
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(sweep, "rival", ready)
    monkeypatch.setattr(sweep, "_still_there", failed)
    told = bench_sweep(asked("experts_up", "gated"), lambda line: None)
    reasons = [trial["reason"] for one in told["results"] for trial in one["trials"]]
    assert reasons[0] == "kernel: RuntimeError: an illegal memory access was encountered"
    assert set(reasons[1:]) == {"skipped: the device failed before"}


def trial(changes, us, bits=SAME, reason=None) -> dict:
    programs = [{"kernel": "_linear", "warps": 8, "registers": 250, "spilled_words": 0, "shared": 200704}]
    return {
        "changes": changes, "us": us, "share": 50 / us if us else None, "spread": 1.1, "bits": bits if us else None,
        "difference": 0.0, "programs": programs if us else [], "reason": reason,
    }  # fmt: skip


def result(*trials: dict) -> dict:
    return {
        "case": "linear qkv sliding", "operation": "linear", "canvases": 1, "limit_us": 50.0, "limited_by": "copy",
        "now_on_hopper": {}, "trials": list(trials),
    }  # fmt: skip


def told_of(*results: dict) -> dict:
    return {
        "device": "NVIDIA H200", "dry_run": False, "results": list(results),
        "asked": {"turns": {"measured": 10}, "rounds": 5, "limit_s": 420.0},
        "ceilings": {"copy_tb_s": 4.0, "bf16_tflop_s": 800.0},
    }  # fmt: skip


def test_a_table_begins_with_the_fastest_and_ends_with_reasons():
    lines = sweep_report.tables(
        told_of(
            result(
                trial({}, 100.0),
                trial({"stages": 5}, None, reason="does not fit"),
                trial({"block": 256}, 80.0),
                trial({"block": 64, "stages": 6}, None, reason="does not fit"),
                trial({"SPLITS": 1}, 70.0, OTHER_ORDER),
            )
        )
    )
    assert lines[0] == "linear qkv sliding, 1 at once, limit 50 us (copy)"
    assert [line.split() for line in lines[4:7]] == [
        ["splits", "1", "70", "71%", "other", "order", "250", "196"],
        ["columns", "256", "80", "62%", "same", "250", "196"],
        ["as", "now", "100", "50%", "same", "250", "196"],
    ]
    assert lines[7] == "does not fit: stages 5; columns 64, stages 6"


def test_findings_name_the_fastest_of_each_kind_but_nothing_wrong_and_no_noise():
    faster = result(
        trial({}, 100.0), trial({"block": 256}, 80.0), trial({"block": 64}, 90.0), trial({"warps": 4}, 50.0, WRONG),
        trial({"SPLITS": 1}, 70.0, OTHER_ORDER),
    )  # fmt: skip
    lines = sweep_report.findings(told_of(faster, result(trial({}, 100.0), trial({"block": 64}, 99.0))))
    told = " ".join(" ".join(lines).split())
    assert told.split(" linear")[0] == "linear qkv sliding 1: splits 1: -30% (other order); columns 256: -20% (same)"
    assert "linear qkv sliding 1: none is faster than now" in lines


def test_the_widest_row_fits_80_columns():
    widest = [
        trial(dict(changes), 12_345.0, OTHER_ORDER) for one in SWEEPS for changes in (*one.one[1:], *one.many[1:])
    ]
    assert max(map(len, sweep_report.tables(told_of(result(*widest))))) <= 80


def test_command_and_module_take_names_and_refuse_what_does_not_go_together(capfd, tmp_path):
    out = tmp_path / "sweep.json"
    done = dgbatch(
        capfd, "bench", "kernels", "--sweep", "gated", "head", "--tiny", "--device", "cpu", "--out", str(out)
    )
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= 80
    assert {one["operation"] for one in json.loads(out.read_text())["results"]} == {"gated", "head"}
    assert dgbatch(capfd, "bench", "kernels", "gated", "--tiny", "--device", "cpu").code == 2
    assert dgbatch(capfd, "bench", "kernels", "--limit-s", "5", "--tiny", "--device", "cpu").code == 2
    assert dgbatch(capfd, "bench", "kernels", "--sweep", "--only", "gated", "--tiny", "--device", "cpu").code == 2
    assert main(["--sweep", "attend full", "--tiny", "--device", "cpu", "--limit-s", "60"]) == 0
    assert "attend full, 2 at once" in capfd.readouterr().out
    assert main(["--sweep", "--device", "cpu"]) == 2
    for refused in (["--limit-s", "5"], ["--sweep", "--only", "gated"], ["--sweep", "--no-compile"]):
        with pytest.raises(SystemExit):
            main(["--tiny", "--device", "cpu", *refused])


def test_a_kernel_without_candidates_is_refused():
    with pytest.raises(BenchError, match="not in the table"):
        asked("condition")
