"""An engine for tests of the runner: it reverses its prompt, needs no torch, and does what the prompt tells it to.

A prompt may hold orders: `!die` ends the process, `!die=FILE` only while FILE does not exist (it makes it), `!crowd`
only beside another prompt, `!hang` and `!hang=FILE` stand still in the same way, `!fatal` raises, `!oom` finds no
memory, `!oom=N` none for more than N canvases in flight, `!reject` rejects the row, `!without=FILE` makes `!reject` and
`!die` count only while FILE is not there, `!raise` and `!raise=FILE` raise, `!steps=N` takes N steps, `!slow=S` makes
each of its steps S seconds longer, `!generation` answers with the settings that arrived, as JSON, `!say=WORD` says it
in four ways (a library's log, a warning, print, native code), `!kill=FILE` is SIGKILL and `!abort=FILE` SIGABRT, once.

The checkpoint is a folder with `fake.json`: {"step_s": seconds per step, "slow_s": those of the one worker that makes
the file "slow_file", "load_s": ..., "load_error": a checkpoint error, "load_crash": an exception, "load_exit": an exit
code, "checksum": ..., "orders": {row id: orders as in a prompt, which leave the prompt and so its answer as they are},
"first": a file that is made with the first prompt}. The environment variable DGBATCH_FAKE may hold more of the same.

While faults are on (runner/fault_injection/faults.py), it has two moments of its own, of the row that the switch names:
`taken`, before it is generated, and `generating`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dgbatch.errors import CheckpointError
from dgbatch.records import (
    PHASES,
    CanvasFilm,
    Completion,
    CurvePoint,
    EngineConfig,
    EngineStats,
    Film,
    Frame,
    Prompt,
    Rejection,
)
from dgbatch.runner.fault_injection import faults
from dgbatch.runner.storage.local_folder import LocalFolder

PATH = "tests.fake_engine:FakeEngine"


def fake_checkpoint(folder: Path, **settings: object) -> str:
    """A folder that FakeEngine.load takes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fake.json").write_text(json.dumps(settings))
    return str(folder)


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


@dataclass
class _Canvas:
    prompt: Prompt
    orders: str
    steps_left: int
    steps: int


class FakeEngine:
    def __init__(self, config: EngineConfig, settings: dict):
        self.config = config
        self.stats = EngineStats(peak_bytes=1 << 30, seconds=dict.fromkeys(PHASES, 0.0))
        self.in_flight = config.canvases or 8
        self.curve = [] if config.canvases else [CurvePoint(4, 0.5), CurvePoint(8, 0.8)]
        self.model_checksum: str = settings.get("checksum", "fake")
        self.device_name = "fake"
        self._step_s: float = settings.get("step_s", 0.0)
        self._orders: dict[str, str] = settings.get("orders", {})
        self._first: str | None = settings.get("first")
        if "slow_file" in settings and _first_time(settings["slow_file"]):
            self._step_s = settings["slow_s"]

    @classmethod
    def load(
        cls, checkpoint: str, config: EngineConfig, revision: str | None = None, local_only: bool = False
    ) -> FakeEngine:
        file = Path(checkpoint) / "fake.json"
        settings = json.loads(file.read_text()) if file.exists() else {}
        settings |= json.loads(os.environ.get("DGBATCH_FAKE", "{}"))
        start = time.perf_counter()
        time.sleep(settings.get("load_s", 0.0))
        if "load_error" in settings:
            raise CheckpointError(settings["load_error"])
        if "load_crash" in settings:
            raise RuntimeError(settings["load_crash"])
        if "load_exit" in settings:
            os._exit(settings["load_exit"])
        engine = cls(config, settings)
        engine.stats.seconds["load"] = time.perf_counter() - start
        return engine

    def generate(self, prompts: Iterable[Prompt | None]) -> Iterator[Completion | Rejection]:
        waiting: Iterator[Prompt | None] | None = iter(prompts)
        flying: list[_Canvas] = []
        while waiting or flying:
            while waiting and len(flying) < self.in_flight:
                with self._phase("tokenize" if flying else "wait_input"):
                    prompt = next(waiting, StopIteration)
                if prompt is StopIteration:
                    waiting = None
                    break
                if prompt is None:
                    break
                assert isinstance(prompt, Prompt)
                self.stats.prompts += 1
                self.stats.shared_tokens += 2
                if self._first and self.stats.prompts == 1:
                    Path(self._first).touch()
                _strike("taken", prompt.id)
                orders = prompt.messages[-1]["content"] + self._orders.get(prompt.id, "")
                if "!reject" in orders and _lacking(orders):
                    self.stats.rejections += 1
                    with self._phase("wait_output"):
                        yield Rejection(prompt.id, prompt.sample, "prompt_too_long", "the prompt says so")
                    continue
                steps = int(order[1]) if (order := re.search(r"!steps=(\d+)", orders)) else 1 + prompt.noise_key % 3
                flying.append(_Canvas(prompt, orders, steps, steps))
            if not flying:
                continue
            with self._phase("denoise"):
                time.sleep(self._step_s)
                for canvas in flying:
                    _strike("generating", canvas.prompt.id)
                    _obey(canvas.orders, len(flying))
                    canvas.steps_left -= 1
            self._count_pass(len(flying))
            for canvas in [canvas for canvas in flying if canvas.steps_left == 0]:
                flying.remove(canvas)
                completion = reversed_prompt(canvas.prompt, canvas.steps)
                self.stats.canvases += 1
                self.stats.denoise_steps += canvas.steps
                self.stats.tokens += completion.tokens
                self.stats.prompt_tokens += completion.prompt_tokens
                with self._phase("wait_output"):
                    yield completion

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.stats.seconds[name] += time.perf_counter() - start

    def _count_pass(self, canvases: int) -> None:
        """Of the time of all steps so far, an eighth each goes to prefill and sample; half of the rest is the floor."""
        stats = self.stats
        stats.passes += 1
        stats.steps += 1
        stats.tiles += canvases
        stats.canvas_tiles += canvases
        seconds = stats.seconds
        took = sum(seconds[phase] for phase in ("prefill", "denoise", "sample"))
        seconds.update(prefill=took / 8, sample=took / 8, denoise=took * 3 / 4)
        stats.floor_s = took * 7 / 16


def reversed_prompt(prompt: Prompt, steps: int = 1) -> Completion:
    """What this engine makes of a prompt, whatever it ran beside."""
    content = prompt.messages[-1]["content"]
    text = json.dumps(asdict(prompt.generation)) if "!generation" in content else content[::-1]
    return Completion(
        id=prompt.id,
        sample=prompt.sample,
        text=text,
        thinking="hm" if prompt.thinking else None,
        thinking_tokens=2 if prompt.thinking else 0,
        canvas_steps=(steps,),
        finish_reason="end_of_turn",
        token_ids=(*text.encode(), prompt.noise_key % 1000, 1),
        prompt_tokens=len(text),
        canvases=1,
        denoise_steps=steps,
        noise_key=prompt.noise_key,
        revised_tokens=prompt.noise_key % 7,
        mean_entropy=prompt.noise_key % 100 / 128,
        queue_s=0.5,
        prefill_s=time.perf_counter() % 0.125,  # no two runs share it
        denoise_s=0.25,
        film=text_film(text, steps) if prompt.film else None,
    )


def text_film(text: str, steps: int) -> Film:
    """One canvas that accepts a text in equal parts, from the left, out of noise of question marks; its last token
    ends the turn.
    """
    ids = (*map(ord, text), 1)
    sure = [len(ids) * (step + 1) // steps for step in range(steps)]
    frames = tuple(
        Frame(
            tokens=(*ids[:known], *[ord("?")] * (len(ids) - known)),
            accepted=tuple(position < known for position in range(len(ids))),
            argmax=ids,
            entropy=tuple(0 if position < known else 64 for position in range(len(ids))),
        )
        for known in sure
    )
    noise = tuple([ord("?")] * len(ids))
    pieces = {id: "<end>" if id == 1 else chr(id) for id in sorted({*ids, *noise})}
    return Film((CanvasFilm(noise, frames),), pieces, frozenset({1}))


def _obey(orders: str, flying: int) -> None:
    if order := re.search(r"!say=(\S+)", orders):
        logging.getLogger("some.library").warning("logged %s", order[1])
        warnings.warn(f"warned {order[1]}", stacklevel=1)
        print(f"printed {order[1]}")
        os.write(2, f"native {order[1]}\n".encode())
    if "!kill=" in orders and _ordered("kill", orders):
        os.kill(os.getpid(), signal.SIGKILL)
    if "!abort=" in orders and _ordered("abort", orders):
        os.abort()
    if _lacking(orders) and _ordered("die", orders):
        os._exit(17)
    if "!crowd" in orders and flying > 1:
        os._exit(18)
    if _ordered("hang", orders):
        time.sleep(3600)
    if (order := re.search(r"!oom(?:=(\d+))?", orders)) and flying > int(order[1] or 0):
        raise OutOfMemoryError(f"no memory for {flying} canvases")
    if "!fatal" in orders or _ordered("raise", orders):
        raise RuntimeError("fake device error")
    if order := re.search(r"!slow=([\d.]+)", orders):
        time.sleep(float(order[1]))


def _ordered(order: str, orders: str) -> bool:
    """Whether it is to be done now: `!order` always, `!order=FILE` only while FILE does not exist."""
    found = re.search(rf"!{order}(?:=(\S+))?", orders)
    return bool(found) and (not found[1] or _first_time(found[1]))


def kill_at_row(switches: faults.Switches, victim: str, moment: str, run: str, row: str) -> str:
    """Switch a kill on that this engine carries out, at `taken` or `generating` of a row."""
    name = faults.kill_switch(victim, moment)
    switches.on(name, json.dumps({"run": run, "row": row}))
    return name


def _strike(moment: str, row: str) -> None:
    path = os.environ.get(faults.VARIABLE)
    if not path:
        return
    switches = faults.Switches(path)
    for victim in faults.VICTIMS:
        name = faults.kill_switch(victim, moment)
        asked = json.loads(switches.value(name) or "{}")
        if asked and asked["row"] == row and switches.take(name):
            switches.kill(name, faults.driver_pid(LocalFolder(asked["run"])) if victim == "driver" else os.getpid())


def _lacking(text: str) -> bool:
    order = re.search(r"!without=(\S+)", text)
    return order is None or not Path(order[1]).exists()


def _first_time(file: str) -> bool:
    try:
        Path(file).touch(exist_ok=False)
        return True
    except FileExistsError:
        return False


def fake_job(
    folder: Path, prompts: Sequence[str | None], settings: Mapping[str, object] | None = None, **blocks: object
) -> str:
    """A job file on these prompts for the fake engine; the answers are right for every prompt but each third."""
    folder.mkdir(parents=True, exist_ok=True)
    answers = [None if text is None else text[::-1] if i % 3 else "wrong" for i, text in enumerate(prompts)]
    table = pa.table(
        {
            "id": [f"r{i:04d}" for i in range(len(prompts))],
            "prompt": pa.array(prompts, pa.string()),
            "answer": pa.array(answers, pa.string()),
        }
    )
    pq.write_table(table, folder / "prompts.parquet", row_group_size=64)
    job: dict[str, object] = {
        "version": 1,
        "name": "fake",
        "model": {"checkpoint": fake_checkpoint(folder / "checkpoint", **(settings or {}))},
        "input": {"path": "prompts.parquet", "id": "id"},
        "prompt": {"template": "{{ prompt }}"},
        "accept": {"rules": [{"equals": "answer"}]},
        "output": {"path": "out", "columns": ["answer"]},
        "workers": {"count": 1, "canvases": 4, "shard_rows": 8},
    }
    for name, block in blocks.items():
        had = job.get(name)
        job[name] = {**had, **block} if isinstance(had, dict) and isinstance(block, dict) else block
    file = folder / "job.yaml"
    file.write_text(json.dumps(job))  # JSON is YAML
    return str(file)
