"""Train the demo checkpoint from nothing, or measure it.

    python -m dgbatch.demo.train --out runs/train   # about an hour on two CPU cores; goes on where it stopped
    python -m dgbatch.demo.train --evaluate         # the packaged checkpoint on fresh puzzles

The same seed and number of threads give the same weights on the same machine.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from dgbatch.demo.checkpoint_files import model_config, write_files
from dgbatch.demo.muon import Muon
from dgbatch.demo.objective import CAUSAL_WEIGHT, Batch, losses, make_batch
from dgbatch.demo.tasks import Example, stream
from dgbatch.engine.model.config import ModelConfig
from dgbatch.engine.model.transformer import Transformer
from dgbatch.engine.weights import save_checkpoint

WEIGHT_DECAY = 0.05
WARM_UP_STEPS = 100
AVERAGE_STEPS = 250  # the saved weights are an exponential average over about so many steps
SAVE_EVERY_STEPS = 150


@dataclass(frozen=True, slots=True)
class Portion:
    """What one task adds to a step. One fixed shape per task, so that it is compiled once."""

    task: str
    rows: int
    clean_tokens: int  # the longest prompt and answer
    canvases: int
    every: int = 1  # it joins each so many steps

    def joins(self, step: int) -> bool:
        return step % self.every == 0


@dataclass(frozen=True, slots=True)
class Stage:
    """Some steps on one mixture; the learning rate warms up, then falls to nothing along half a cosine."""

    steps: int
    learning_rate: float
    portions: tuple[Portion, ...]


SUDOKU4 = Portion("sudoku4", rows=24, clean_tokens=60, canvases=1)
SUDOKU6 = Portion("sudoku6", rows=64, clean_tokens=104, canvases=1)
SORT = Portion("sort", rows=16, clean_tokens=209, canvases=2)
ADD = Portion("add", rows=12, clean_tokens=240, canvases=4)
# Lists are learnt after a thousand steps; the grids take the rest (lab log). A portion may come twice in a step.
STAGES = (
    Stage(1900, 3e-3, (SUDOKU4, SUDOKU6, SORT, ADD)),
    Stage(1200, 2.5e-3, (SUDOKU4, SUDOKU4, SUDOKU4, SUDOKU6, SUDOKU6, replace(SORT, every=4), replace(ADD, every=4))),
    Stage(800, 2e-3, (SUDOKU4, SUDOKU6, SUDOKU6, SUDOKU6, replace(SORT, every=2), replace(ADD, every=2))),
)


def train(
    out: Path,
    seed: int,
    stages: tuple[Stage, ...] = STAGES,
    compiled: bool = True,
    say: Callable[[str], None] = print,
) -> Path:
    """Train from random weights and write a checkpoint folder; returns it. Resumes from `out`/state.pt."""
    out.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    model = new_model(generator)
    optimizers = make_optimizers(model)
    average = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    start = resume(out, model, optimizers, average, generator)
    tasks = sorted({portion.task for stage in stages for portion in stage.portions})
    examples = {task: stream(task, seed, held_out=False) for task in tasks}
    for task, taken in drawn(stages, start).items():  # a resumed run goes on with what an unbroken one would see
        _skip(examples[task], taken)
    loss_of = torch.compile(losses, dynamic=False) if compiled else losses
    steps, began, told = sum(stage.steps for stage in stages), time.monotonic(), {}
    for step, stage, rate in schedule(stages):
        if step < start:
            continue
        for portion in stage.portions:
            if portion.joins(step):
                rows = list(islice(examples[portion.task], portion.rows))
                batch = make_batch(rows, portion.clean_tokens, portion.canvases, generator)
                told[portion.task] = backward(loss_of, model, batch)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        follow(average, model, step)
        if (step + 1) % 20 == 0 or step + 1 == steps:
            seen = " ".join(f"{task} {denoising:.3f}/{causal:.3f}" for task, (denoising, causal) in told.items())
            pace = (time.monotonic() - began) / (step + 1 - start)
            say(f"step {step + 1}/{steps}  denoising/causal loss: {seen}  {pace:.2f} s/step")
        if (step + 1) % SAVE_EVERY_STEPS == 0 or step + 1 == steps:
            save_state(out, step + 1, model, optimizers, average, generator)
            save_average(out / "checkpoint", model, average)
    return out / "checkpoint"


def schedule(stages: Sequence[Stage]) -> Iterator[tuple[int, Stage, float]]:
    """Every step of all stages with its stage and learning rate."""
    step = 0
    for stage in stages:
        for inside in range(stage.steps):
            yield step, stage, learning_rate(inside, stage)
            step += 1


def drawn(stages: Sequence[Stage], steps: int) -> Counter[str]:
    """How many examples of each task the first steps took."""
    taken: Counter[str] = Counter()
    for step, stage, _ in islice(schedule(stages), steps):
        for portion in stage.portions:
            if portion.joins(step):
                taken[portion.task] += portion.rows
    return taken


def new_model(generator: torch.Generator) -> Transformer:
    """Random weights; query and key norms start low, since attention here has no 1/sqrt(head_dim)."""
    model = Transformer(ModelConfig.from_dict(model_config("float32")))
    model.reset_parameters(generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("q_norm", "k_norm")):
                parameter.fill_(parameter.shape[0] ** -0.25)
    return model


def make_optimizers(model: Transformer) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the embedding, the routers and everything with one axis."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        hidden = parameter.dim() >= 2 and name != "embedding" and "router" not in name
        (matrices if hidden else others).append(parameter)
    return [
        Muon(matrices, lr=0.0, weight_decay=WEIGHT_DECAY),
        torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def learning_rate(step: int, stage: Stage) -> float:
    """Of a stage's own step: a linear warm-up, then half a cosine down to nothing."""
    warm_up = min(1.0, (step + 1) / min(WARM_UP_STEPS, max(1, stage.steps // 4)))
    return stage.learning_rate * warm_up * 0.5 * (1 + math.cos(math.pi * step / stage.steps))


def backward(loss_of: Callable[..., tuple[Tensor, Tensor]], model: Transformer, batch: Batch) -> tuple[float, float]:
    with torch.autocast("cpu", torch.bfloat16):
        denoising, causal = loss_of(model, batch)
    (denoising + CAUSAL_WEIGHT * causal).backward()
    return denoising.item(), causal.item()


@torch.no_grad()
def follow(average: dict[str, Tensor], model: Transformer, step: int) -> None:
    """Move the average towards the model; early on it forgets faster, so that random weights leave it."""
    share = max(1 / AVERAGE_STEPS, 10 / (step + 10))
    for name, parameter in model.named_parameters():
        average[name].lerp_(parameter, share)


def save_state(
    out: Path,
    step: int,
    model: Transformer,
    optimizers: list[torch.optim.Optimizer],
    average: dict[str, Tensor],
    generator: torch.Generator,
) -> None:
    state = {
        "step": step,
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "average": average,
        "generator": generator.get_state(),
    }
    torch.save(state, out / "state.pt.partial")
    (out / "state.pt.partial").replace(out / "state.pt")


def resume(
    out: Path,
    model: Transformer,
    optimizers: list[torch.optim.Optimizer],
    average: dict[str, Tensor],
    generator: torch.Generator,
) -> int:
    """Put back what `save_state` wrote, if it did; returns the number of steps done."""
    if not (out / "state.pt").exists():
        return 0
    state = torch.load(out / "state.pt", weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    average.update(state["average"])
    generator.set_state(state["generator"])
    return int(state["step"])


def save_average(folder: Path, model: Transformer, average: dict[str, Tensor]) -> None:
    """The checkpoint: averaged weights, rounded to bfloat16, under the public names."""
    averaged = Transformer(model.config)
    averaged.load_state_dict({**model.state_dict(), **average})
    write_files(folder, "bfloat16")
    save_checkpoint(folder, averaged, model_config("bfloat16"), torch.bfloat16)


def _skip(examples: Iterator[Example], count: int) -> None:
    next(islice(examples, count, count), None)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dgbatch.demo.train", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/train"), help="folder for state.pt and checkpoint/")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compile", action="store_true", help="start at once, at about half the speed")
    parser.add_argument("--evaluate", action="store_true", help="measure a checkpoint instead of training one")
    parser.add_argument("--checkpoint", type=Path, default=Path(__file__).parent / "checkpoint")
    parser.add_argument("--rows", type=int, default=1000, help="fresh puzzles per task to evaluate on")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.evaluate:
        from dgbatch.demo.evaluate import evaluate

        evaluate(args.checkpoint, args.rows)
        return
    folder = train(args.out, args.seed, compiled=not args.no_compile, say=lambda line: print(line, flush=True))
    print(f"wrote {folder}")


if __name__ == "__main__":
    main()
