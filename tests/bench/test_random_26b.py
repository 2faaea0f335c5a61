"""`dgbatch bench engine --model random-26b`: that all sides compute the same from the same tensors, the arithmetic of
the report, and a dry run of all of it on a CPU."""

from __future__ import annotations

import json
import time
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dgbatch import roofline
from dgbatch.bench import plain
from dgbatch.bench.random_26b import report, run
from dgbatch.bench.random_26b.__main__ import main
from dgbatch.bench.random_26b.contender import COMPILED, EAGER, OURS, Passes
from dgbatch.bench.random_26b.model import REAL, TINY, prefix_of, random_model
from dgbatch.bench.random_26b.ours import Dgbatch, laid_out
from dgbatch.bench.stopwatch import Turns, one_thread
from dgbatch.engine import kernels
from dgbatch.engine.device_step import forward
from dgbatch.engine.kernels.tables import Number, Told
from dgbatch.engine.model.transformer import Transformer
from dgbatch.engine.weights import public_name
from dgbatch.errors import BenchError
from dgbatch.roofline import DIFFUSIONGEMMA_26B, Device, Shape
from tests.cli.command import dgbatch

# torch's compilers warn of one another
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")

CPU = torch.device("cpu")
LENGTH = TINY.canvas_length
H200 = Device("here", 4.3e12, {"bf16": 790e12})
# float32 on both sides, sums in another order; the logits are of about 0.6
LOGITS = {"atol": 2e-5, "rtol": 0}


@pytest.fixture(scope="module")
def model():
    return random_model(TINY, CPU, torch.float32)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("dgbatch.bench.random_26b.run.ceilings", lambda device, dtype, quick: H200)
    with one_thread(CPU):
        yield


def transformers(model, compiled: bool = False):
    pytest.importorskip("transformers", reason="transformers is not installed: pip install 'dgbatch[dev]'")
    from dgbatch.bench.random_26b.theirs import Transformers

    return Transformers(model, compiled)


# What is measured


def test_the_real_shape_is_that_of_the_roofline():
    assert Shape.of(REAL) == DIFFUSIONGEMMA_26B
    assert 2 * Shape.of(REAL).weights == pytest.approx(50.5e9, rel=2e-3)  # bytes of bfloat16


def test_a_random_model_has_the_spread_of_new_weights(model):
    assert model.embedding.std() == pytest.approx(0.02, rel=0.05)
    assert model.layers[0].experts.gate_up.std() == pytest.approx(TINY.hidden**-0.5, rel=0.05)
    assert torch.equal(model.final_norm, torch.ones(TINY.hidden))


def test_of_a_sliding_layer_a_prefix_has_what_a_canvas_sees(model):
    keys, values = prefix_of(TINY, 0, 0, 40, model.embedding)
    assert keys.shape == values.shape == (40, 2, 16)
    behind = 40 - (TINY.sliding_window - 1)
    assert not keys[:behind].any()
    assert keys[behind:].all()
    full, _ = prefix_of(TINY, 2, 0, 40, model.embedding)
    assert full.all()
    assert full.square().mean() == pytest.approx(1.0, rel=0.2)  # as norms leave keys
    assert not torch.equal(full, prefix_of(TINY, 2, 1, 40, model.embedding)[0])


# That it is the same on all sides


def test_transformers_hold_our_tensors_themselves(model):
    theirs = transformers(model)._model
    for name, tensor in model.state_dict(keep_vars=True).items():
        where = public_name(name)
        assert theirs.get_parameter_or_buffer(where).data_ptr() == tensor.data_ptr(), name
        if where.startswith("model.decoder.layers.") and "layer_scalar" not in where:
            encoder = where.replace("model.decoder.", "model.encoder.language_model.")
            assert theirs.get_parameter_or_buffer(encoder).data_ptr() == tensor.data_ptr(), encoder
    assert theirs.lm_head.weight.data_ptr() == model.embedding.data_ptr()
    own = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert {tensor.data_ptr() for tensor in theirs.parameters()} <= own  # and no other weight


def test_transformers_have_the_real_model_in_the_same_sizes():
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed: pip install 'dgbatch[dev]'"
    )
    from dgbatch.bench.random_26b.theirs import their_config

    with torch.device("meta"):
        ours, theirs = Transformer(REAL), transformers.DiffusionGemmaForBlockDiffusion(their_config(REAL))
    for name, tensor in ours.state_dict().items():
        assert theirs.get_parameter_or_buffer(public_name(name)).shape == tensor.shape, name


def test_our_step_holds_them_too_whoever_comes_first():
    model = random_model(TINY, CPU, torch.float32)
    theirs = transformers(model)._model.model.decoder
    ours = Dgbatch(model)._weights
    gate_up = ours.layers[0].gate_up
    assert theirs.layers[0].mlp.gate_proj.weight.data_ptr() == gate_up.data_ptr()
    assert theirs.layers[0].mlp.up_proj.weight.data_ptr() == gate_up[TINY.intermediate :].data_ptr()
    assert theirs.layers[0].self_attn.q_proj.weight.data_ptr() == ours.layers[0].qkv.data_ptr()
    assert theirs.self_conditioning.gate_proj.weight.data_ptr() == ours.soft_gate_up.data_ptr()


def test_every_chunk_that_is_seen_has_a_page_of_its_own(model):
    state = laid_out(model, 3, 100)  # 7 chunks a slot, and one for a commit; 4 lie behind the window
    full, sliding = state.slots.pages[:, :, :8]
    assert full.flatten().tolist() == list(range(24))
    assert not sliding[:, :4].any()
    assert sliding[:, 4:].flatten().tolist() == list(range(1, 13))
    # behind the pages of text each slot has one for its canvas
    assert [len(state.pools[layer]) for layer in (0, 2)] == [13 + 3, 24 + 3]


@pytest.mark.parametrize("prefix", [16, 21, 40])  # a whole chunk; one and a part; more than the window
@torch.no_grad()
def test_both_sides_compute_the_same_logits(model, prefix):
    ours, theirs = Dgbatch(model), transformers(model)
    passes = ours.prepare(2, prefix)
    slots = ours.state.slots
    believed = 3 * torch.randn(2, LENGTH, TINY.vocab_size, generator=torch.Generator().manual_seed(1))
    slots.soft[:, :LENGTH] = F.linear(believed.softmax(-1), model.embedding.T) * model.embed_scale
    canvas = slots.canvas[:, :LENGTH].long().clone()

    normed = head_input(passes).view(2, -1, TINY.hidden)[:, :LENGTH]
    mine = kernels.softcap(F.linear(normed, model.embedding), TINY.softcap)
    cache = theirs._cache(2, prefix)
    other = theirs._model(decoder_input_ids=canvas, self_conditioning_logits=believed, past_key_values=cache).logits
    torch.testing.assert_close(mine, other, **LOGITS)
    assert mine.std() > 0.05  # there is something to compare


def head_input(passes: Passes) -> Tensor:
    """What a step gives to the head."""
    seen = []
    head = forward.op.head

    def spying(h, *others):
        seen.append(h.clone())
        return head(h, *others)

    with mock.patch.object(forward.op, "head", spying):
        passes.step()
    (normed,) = seen
    return normed


@torch.no_grad()
def test_both_sides_commit_the_same_keys_and_values(model):
    prefix = 40
    ours, theirs = Dgbatch(model), transformers(model)
    passes = ours.prepare(2, prefix)
    slots = ours.state.slots
    ids = slots.text[:, prefix : prefix + LENGTH].long()
    passes.rewind()
    passes.commit()
    cache = theirs._cache(2, prefix)
    positions = torch.arange(prefix, prefix + LENGTH).unsqueeze(0)
    theirs._model.model.encoder(input_ids=ids, past_key_values=cache, position_ids=positions)
    for slot in range(2):
        for layer, kept in enumerate(cache.layers):
            page = int(slots.pages[int(TINY.layers[layer].sliding), slot, 3])  # chunks of 16, 16 and 8 are before it
            expected = torch.stack([kept.keys[slot], kept.values[slot]])[:, :, -LENGTH:]
            torch.testing.assert_close(ours.state.pools[layer][page], expected, **LOGITS)


def test_no_canvas_settles_and_every_commit_is_the_same_one(model):
    ours = Dgbatch(model)
    passes = ours.prepare(2, 40)
    told, numbers = ours.state.slots.told, ours.state.slots.numbers
    for step in range(2, 5):
        passes.step()
        assert told[:, Told.DENOISED].tolist() == [1, 1]
        assert told[:, Told.SETTLED].tolist() == [0, 0]
        assert numbers[:, Number.STEP].tolist() == [step, step]
    for _ in range(2):
        passes.rewind()
        passes.commit()
        assert told[:, Told.DENOISED].tolist() == [0, 0]
        assert numbers[:, Number.ENCODED].tolist() == [40 + LENGTH] * 2


@pytest.mark.parametrize("compiled", [False, True])
def test_a_rewound_cache_of_transformers_is_as_long_as_it_was(model, compiled):
    theirs = transformers(model, compiled)
    from transformers.cache_utils import StaticLayer

    caches = []
    make = theirs._cache
    with mock.patch.object(theirs, "_cache", lambda *sizes: caches.append(make(*sizes)) or caches[0]):
        passes = theirs.prepare(1, 40)
    (cache,) = caches

    def lengths() -> set[int]:
        counted = {int(layer.cumulative_length) for layer in cache.layers if isinstance(layer, StaticLayer)}
        return {int(layer.get_seq_length()) for layer in cache.layers} | (counted - {0})  # a full window needs none

    passes.commit()
    assert lengths() == {40 + LENGTH}
    passes.rewind()
    assert lengths() == {40}
    passes.step()
    assert lengths() == {40}
    theirs.release()


# What is told


def cell(engine: str, canvases: int, ms: float, prefix: int = 1024, **changed) -> dict:
    usual = {
        "engine": engine, "precision": "bf16", "canvases": canvases, "prefix": prefix, "ms_per_step": ms,
        "ms_per_commit": 0.9 * ms, "floor_ms": 12.9, "floor_commit_ms": 11.9, "spread": 1.01, "peak_gb": 60.0,
    }  # fmt: skip
    return usual | changed


def told(*results: dict, skipped: tuple[dict, ...] = (), dry_run: bool = False) -> dict:
    return {
        "benchmark": "random-26b",
        "device": "NVIDIA H200",
        "dry_run": dry_run,
        "asked": {"turns": {"warm_ups": 20, "measured": 50}},
        "ceilings": {"copy_tb_s": 4.3, "bf16_tflop_s": 790.0},
        "seconds": 400.0,
        "results": list(results),
        "skipped": list(skipped),
    }


def test_shares_and_ratios():
    assert report.share(12.9, 17.2) == pytest.approx(0.75)
    assert report.share(None, 17.2) is None
    assert report.ratio(cell(EAGER, 1, 34.4), cell(OURS, 1, 17.2)) == pytest.approx(2.0)
    assert report.ratio(None, cell(OURS, 1, 17.2)) is None


def test_floors_are_those_of_the_roofline():
    shape = Shape.of(REAL)
    assert run.floor_ms(roofline.denoise(shape, H200, "bf16", 1, 1024)) == pytest.approx(12.90, abs=0.01)
    assert run.floor_ms(roofline.denoise(shape, H200, "bf16", 8, 1024)) == pytest.approx(28.8, abs=0.1)
    assert run.floor_ms(roofline.commit(shape, H200, "bf16", 1, 1024)) == pytest.approx(11.93, abs=0.01)


def test_a_cell_has_the_floor_of_its_own_size(model):
    asked = run.RandomBench.asking("cpu", True, (3,), (40,), (OURS,), "")
    slow = Slow()
    made = run.measured(slow, asked, 3, 40, model, CPU, H200)
    shape = Shape.of(TINY)
    assert made.floor_ms == pytest.approx(1e3 * roofline.seconds(roofline.denoise(shape, H200, "bf16", 3, 40)))
    assert made.floor_commit_ms == pytest.approx(1e3 * roofline.seconds(roofline.commit(shape, H200, "bf16", 3, 40)))
    assert (made.engine, made.canvases, made.prefix) == (COMPILED, 3, 40)


def test_a_row_has_every_side_of_one_size():
    said = told(cell(OURS, 1, 17.2), cell(EAGER, 1, 34.4), cell(COMPILED, 8, 90.0))
    assert report.table_rows(said) == [
        ("1", "1,024", "12.9", "17.2", "75%", "34.4 2.00x", "-", "15.5", "77%"),
        ("8", "1,024", "12.9", "-", "-", "-", "90.0", "-", "-"),
    ]


def test_table_and_sentences_fit_80_columns():
    left_out = {"engine": COMPILED, "canvases": 16, "prefix": 8192, "reason": "OutOfMemoryError: " + 60 * "GB "}
    said = told(
        *[cell(name, number, 123.4, prefix) for name in (OURS, EAGER, COMPILED) for number in (1, 16)
          for prefix in (1024, 8192)],
        skipped=(left_out,),
    )  # fmt: skip
    lines = report.findings(said)
    printed = plain.table(report.COLUMNS, report.table_rows(said), left=0)
    assert max(map(len, (*printed.splitlines(), *lines))) <= 80
    assert "16 at 8192" in " ".join(lines)


@pytest.mark.parametrize(
    ("canvases", "ms", "verdict"),
    [(1, 17.3, "BELOW THE BAR"), (1, 17.2, "bar reached"), (1, 15.2, "aim reached"), (8, 48.0, "bar reached")],
)
def test_milliseconds_are_held_against_bar_and_aim(canvases, ms, verdict):
    (line,) = report.bars(told(cell(OURS, canvases, ms)))
    assert line.startswith(f"{canvases} at once, ms per step: {ms:.2f}")
    assert line.endswith(verdict)


@pytest.mark.parametrize(
    ("engine", "canvases", "times", "verdict"),
    [
        (EAGER, 1, 1.4, "BELOW THE BAR"), (EAGER, 1, 1.6, "bar reached"), (EAGER, 1, 2.1, "aim reached"),
        (EAGER, 8, 1.9, "BELOW THE BAR"), (EAGER, 8, 3.1, "aim reached"), (COMPILED, 1, 1.3, "bar reached"),
    ],
)  # fmt: skip
def test_ratios_are_held_against_bar_and_aim(engine, canvases, times, verdict):
    _, line = report.bars(told(cell(OURS, canvases, 20.0), cell(engine, canvases, 20.0 * times)))
    assert f"{engine} / dgbatch: {times:.2f}" in line
    assert line.endswith(verdict)


def test_bars_are_for_an_h200_at_full_size():
    assert report.bars(told(cell(OURS, 1, 10.0), dry_run=True)) == []
    assert report.bars(told(cell(OURS, 1, 10.0)) | {"device": "NVIDIA RTX PRO 6000"}) == []
    assert report.bars(told(cell(OURS, 1, 10.0, prefix=8192))) == []


def test_the_sizes_of_the_bars_come_first():
    assert run.order((1, 2, 8), (1024, 8192)) == [(1, 1024), (8, 1024), (2, 1024), (1, 8192), (8, 8192), (2, 8192)]


# All of it


@pytest.fixture(scope="module")
def dry_run():
    pytest.importorskip("transformers", reason="transformers is not installed: pip install 'dgbatch[dev]'")
    asked = run.RandomBench.asking("cpu", True, (2,), None, (OURS, EAGER, COMPILED), "typed")
    kept = []
    with mock.patch.object(run, "ceilings", return_value=H200):
        return run.bench_random(asked, lambda line: None, lambda so_far: kept.append(len(so_far["results"]))), kept


def test_a_dry_run_measures_every_side_and_claims_no_floor(dry_run):
    said, _ = dry_run
    assert [one["engine"] for one in said["results"]] == [OURS, EAGER, COMPILED]
    for one in said["results"]:
        assert (one["precision"], one["canvases"], one["prefix"]) == ("float32", 2, 40)
        assert one["ms_per_step"] > 0
        assert one["ms_per_commit"] > 0
        assert one["floor_ms"] is one["floor_commit_ms"] is one["peak_gb"] is None
    assert said["skipped"] == []
    assert said["dry_run"]
    assert "x" not in " ".join(report.table_rows(said)[0])  # nor that one side is so many times as fast
    assert "A dry run" in report.findings(said)[0]


def test_the_report_has_every_field_that_was_asked_for(dry_run):
    said, _ = dry_run
    assert {"device", "driver", "versions", "command", "date", "ceilings", "results"} <= said.keys()
    assert said["ceilings"].keys() == {"copy_tb_s", "bf16_tflop_s"}
    assert said["versions"]["transformers"]
    wanted = {"engine", "precision", "canvases", "prefix", "ms_per_step", "ms_per_commit", "floor_ms"}
    assert all(wanted <= one.keys() for one in said["results"])
    assert "random keys and values" in said["prefix_content"]
    json.dumps(said)


def test_what_was_measured_is_kept_after_every_cell(dry_run):
    assert dry_run[1] == [1, 2, 3, 3]


def test_a_picture_is_drawn(dry_run, tmp_path):
    pytest.importorskip("matplotlib")
    from dgbatch.bench.plot import plot

    plot(dry_run[0], tmp_path / "dry.png")
    full = told(*[cell(name, number, 20.0 * number, prefix) for name in (OURS, EAGER, COMPILED) for number in (1, 2)
                  for prefix in (1024, 8192)])  # fmt: skip
    plot(full, tmp_path / "full.png")
    assert (tmp_path / "full.png").read_bytes().startswith(b"\x89PNG")


def test_a_side_that_cannot_take_part_says_why_and_the_others_are_measured(monkeypatch):
    def entered(name, model):
        if name == EAGER:
            raise BenchError("transformers cannot be imported: no module\nnamed transformers")
        return Dgbatch(model)

    monkeypatch.setattr(run, "entered", entered)
    asked = run.RandomBench.asking("cpu", True, (1, 2), (40,), (EAGER, OURS), "")
    said = run.bench_random(asked, lambda line: None)
    assert [one["engine"] for one in said["results"]] == [OURS, OURS]
    assert [one["reason"] for one in said["skipped"]] == ["BenchError: transformers cannot be imported: no module"] * 2


class Slow:
    """Takes longer than it has, as a compiler may."""

    name = COMPILED

    def __init__(self):
        self.released = 0

    def prepare(self, canvases: int, prefix: int) -> Passes:
        time.sleep(5 if canvases == 1 else 0)
        return Passes(lambda: None, lambda: None)

    def release(self) -> None:
        self.released += 1


def test_a_side_that_takes_too_long_is_interrupted(monkeypatch, model):
    slow = Slow()
    monkeypatch.setattr(run, "entered", lambda name, model: slow)
    asked = run.RandomBench.asking("cpu", True, (1, 2), (40,), (COMPILED,), "")
    begun = time.monotonic()
    results = list(run.cells(asked, COMPILED, model, CPU, None, begun + 0.2))
    assert time.monotonic() - begun < 3
    assert [one["reason"] for one in results] == ["the seconds for this side were used up"] * 2
    assert slow.released == 1


def test_turns_of_a_real_run_are_at_least_fifty():
    assert run.RandomBench().turns == Turns(20, 50)
    assert run.RandomBench(tiny=True).turns.measured < 10


# The commands


def test_command_prints_80_columns(capfd, tmp_path):
    out = tmp_path / "random.json"
    typed = ("bench", "engine", "--model", "random-26b", "--tiny", "--device", "cpu", "--canvases", "1")
    left = dgbatch(capfd, *typed, "--no-transformers", "--out", str(out))
    assert left.code == 0
    assert max(map(len, left.out.splitlines())) <= 80
    assert json.loads(out.read_text())["results"][0]["engine"] == OURS


@pytest.mark.parametrize(
    ("typed", "what"),
    [
        (("--model", "random-70b"), "no such model; known is random-26b"),
        (("--model", "random-26b", "--device", "cpu"), "add --tiny"),
        (("--model", "random-26b", "--rows", "5"), "--rows does not go with --model"),
        (("--tiny",), "--tiny does not go without --model"),
        (("--model", "random-26b", "--tiny", "--out", "nowhere/x.json"), "make it first"),
    ],
)
def test_command_refuses_what_cannot_be(capfd, typed, what):
    left = dgbatch(capfd, "bench", "engine", *typed)
    assert left.code == 2
    assert what in left.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with a GPU has what this asks for")
def test_command_refuses_a_gpu_that_is_not_there(capfd):
    left = dgbatch(capfd, "bench", "engine", "--model", "random-26b", "--device", "cuda")
    assert (left.code, "torch sees no CUDA GPU" in left.err) == (2, True)


def test_module_runs_without_our_command_line(capsys, tmp_path):
    out = tmp_path / "random.json"
    typed = ["--tiny", "--device", "cpu", "--engine", OURS, "--canvases", "1", "--out", str(out)]
    assert main(typed) == 0
    assert "A dry run" in capsys.readouterr().out
    assert json.loads(out.read_text())["command"].startswith("python -m dgbatch.bench.random_26b --tiny")
    assert main(["--device", "cpu"]) == 2
    assert "add --tiny" in capsys.readouterr().err
