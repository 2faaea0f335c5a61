"""Kernels compiled ahead of time, as the launcher would compile them on a GPU that is not here.

    python -m tests.engine.aot 90            # every kernel at the real shapes for sm_90: a line of JSON each
    python -m tests.engine.aot 90 linear     # of cases whose name begins so
    python -m tests.engine.aot 90 --odd      # at the tiny odd shape, bfloat16 and float32: what tests on a GPU run
    python -m tests.engine.aot 90 --candidates [NAME ...]  # block sizes that `bench kernels --sweep` tries
    python -m tests.engine.aot 90 --defects  # kernels that are bad on purpose: what a check must see

A kernel's wrapper is called with tensors of no device; where it would launch, the launch is written down. Triton's own
binder then says what it would specialise on: types, ones, multiples of 16 among numbers and addresses.
"""

from __future__ import annotations

import os

os.environ.pop("TRITON_INTERPRET", None)  # or @triton.jit makes functions that cannot be compiled

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from dgbatch.bench.kernels.candidates import named
from dgbatch.bench.kernels.case import Case
from dgbatch.bench.kernels.cases import REAL, TINY, cases, ragged
from dgbatch.bench.kernels.replaced import replaced
from dgbatch.bench.kernels.seats import Company
from dgbatch.engine.kernels import launch

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SHARED_LIMIT = 227 * 1024  # of one program on sm_90 and sm_100
SM_REGISTERS, SM_SHARED, SM_THREADS, SM_PROGRAMS = 65_536, 228 * 1024, 2048, 32


def in_flight(canvases: int, chunks: int) -> Company:
    """So many tiles of an engine with sixteen slots."""
    company = Company.of(REAL, canvases, chunks)
    return replace(company, seats=(*company.seats, *[None] * (16 - len(company.seats))))


# One canvas in the one slot there is; one, two, many of sixteen: what a kernel is compiled for anew.
COMPANIES = (Company.of(REAL, 1), *(in_flight(*mixed) for mixed in ((1, 0), (2, 0), (6, 2), (12, 4))))


@dataclass(frozen=True)
class Launch:
    """A kernel with all that it would have been launched with."""

    kernel: JITFunction
    arguments: tuple[Any, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Compiled:
    """What a program needs of a multiprocessor, read from its machine code."""

    kernel: str
    constants: dict[str, str]
    warps: int
    stages: int
    registers: int
    shared: int  # bytes
    stack: int  # bytes
    spills: int  # instructions that put registers into memory or get them back
    products: int  # tensor-core instructions of the architecture's own kind: wgmma, tcgen05
    older: int  # tensor-core instructions as they were before Hopper
    dots: int  # products that its source has
    loads: dict[str, int]  # instructions that bring memory closer, by kind
    unaligned: list[str]  # arguments that are pointers or numbers above 1 and no multiple of 16

    @property
    def programs(self) -> int:
        """How many share a multiprocessor."""
        own = 32 * self.warps
        registers = -(-self.registers // 8) * 8 * own
        by_shared = SM_SHARED // (self.shared + 1024)  # the driver keeps 1 KiB of each
        return min(SM_REGISTERS // registers, by_shared, SM_THREADS // own, SM_PROGRAMS)


class Address:
    """In a tensor's place where only its address and dtype are looked at; torch puts tensors at multiples of 512."""

    def __init__(self, tensor: torch.Tensor):
        self.dtype = tensor.dtype
        self._address = 1 << 20 | tensor.storage_offset() * tensor.element_size()

    def data_ptr(self) -> int:
        return self._address


@contextmanager
def recorded(architecture: int) -> Iterator[list[Launch]]:
    """Launches inside go into the list instead of to a device, which is taken for one of this architecture."""
    launches: list[Launch] = []

    def write_down(kernel: JITFunction, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        launches.append(Launch(kernel, arguments, options))

    def pretended(tensor: torch.Tensor) -> int:
        return architecture

    with mock.patch.object(JITFunction, "run", write_down), mock.patch.object(launch, "architecture", pretended):
        yield launches


def launches_of(case: Case, company: Company, architecture: int, dtype: torch.dtype = torch.bfloat16) -> list[Launch]:
    module = import_module(f"dgbatch.engine.kernels.{case.operation}")
    arguments = case.arguments(company, dtype, "meta")
    with recorded(architecture) as launches, ExitStack() as replaced:
        if hasattr(module, "architecture"):  # its own name for it
            replaced.enter_context(mock.patch.object(module, "architecture", launch.architecture))
        getattr(module, case.operation)(*arguments)
    return launches


class Program:
    """A launch as the compiler gets it. Two launches of one program compare equal by their key."""

    def __init__(self, launch: Launch, architecture: int):
        self.kernel, self.target = launch.kernel, GPUTarget("cuda", architecture, 32)
        backend = make_backend(self.target)
        bind = create_function_from_signature(self.kernel.signature, self.kernel.params, backend)
        arguments = [Address(one) if isinstance(one, torch.Tensor) else one for one in launch.arguments]
        named = {
            name: Address(one) if isinstance(one, torch.Tensor) else one for name, one in launch.options.items()
        } | {"debug": False}
        bound, specialization, _ = bind(*arguments, **named)
        self.specialization = specialization
        self.options, self.signature, self.constants, self.attributes = self.kernel._pack_args(
            backend, named, bound, specialization, None
        )
        self.key = str((self.kernel.__name__, self.signature, self.constants, self.attributes, self.options))

    def compile(self) -> Compiled:
        source = ASTSource(self.kernel, self.signature, self.constants, self.attributes)
        made = triton.compile(source, target=self.target, options=self.options.__dict__)
        # its registers and spills cannot be asked for without a driver: they are read from the machine code
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(made.asm["cubin"])
            file.flush()
            usage, code = _tool("cuobjdump", "--dump-resource-usage", file.name), _tool("nvdisasm", "-c", file.name)
        words = re.findall(r"^\s*(?:/\*[0-9a-f]+\*/)?\s*(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)\b", code, re.M)
        found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
        assert found and words, usage
        own = "HGMMA" if self.target.arch == launch.HOPPER else "UTC[A-Z]*MMA"
        return Compiled(
            self.kernel.__name__,
            {name: str(value) for name, value in self._constants()},
            self.options.num_warps,
            self.options.num_stages,
            int(found[1]),
            made.metadata.shared,
            int(found[2]),
            spills=_count(words, "STL|LDL"),
            products=_count(words, own),
            older=_count(words, "HMMA|IMMA|DMMA|QMMA|OMMA"),
            dots=len(re.findall(r"\btt\.dot\b", made.asm["ttir"])),
            loads={
                "cp.async 16": _count(words, r"LDGSTS\S*\.128"),
                "cp.async": _count(words, "LDGSTS"),
                "TMA": _count(words, "UTMALDG|UBLKCP"),
                "ld 16": _count(words, r"LDG\.\S*128"),
                "ld": _count(words, "LDG"),
            },
            unaligned=[
                name
                for name, (kind, mark) in zip(self.signature, self.specialization, strict=True)
                if kind != "constexpr" and not kind.startswith(("fp", "u1")) and not mark
            ],
        )

    def _constants(self) -> Iterator[tuple[str, Any]]:
        names = [parameter.name for parameter in self.kernel.params]
        for path, value in self.constants.items():
            yield (names[path[0]] if isinstance(path, tuple) else path), value


def programs_of(chosen: list[Case], architecture: int) -> dict[str, tuple[Program, dict[str, list[int]]]]:
    """Each program once, with the cases and the tile counts that run it."""
    found: dict[str, tuple[Program, dict[str, list[int]]]] = {}
    for case in chosen:
        for company in COMPANIES:
            for one in launches_of(case, company, architecture):
                program = Program(one, architecture)
                _, users = found.setdefault(program.key, (program, {}))
                tiles = users.setdefault(case.name, [])
                if company.tiles not in tiles:
                    tiles.append(company.tiles)
    return found


def odd_programs(architecture: int) -> Iterator[tuple[Program, dict[str, list[int]]]]:
    company = ragged(TINY)
    for dtype in (torch.bfloat16, torch.float32):
        for case in cases(TINY):
            for one in launches_of(case, company, architecture, dtype):
                yield Program(one, architecture), {f"{case.name} {dtype}".replace("torch.", ""): [company.tiles]}


def candidate_programs(architecture: int, only: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """What a sweep tries, as it is on the machine that it is for: each once, with the worst of its programs."""
    made: dict[str, Compiled] = {}
    told: list[tuple[str, dict[str, int | None], int]] = []
    for sweep in named(only):
        case = next(case for case in cases(REAL) if case.name == sweep.case)
        for canvases in (1, 8):
            for changes in ({}, *sweep.at(canvases)[1:]):
                # the five shapes of linear are one program
                if (one := (sweep.operation, dict(changes), canvases)) in told and sweep.operation == "linear":
                    continue
                told.append(one)
                with replaced(sweep.operation, changes):
                    programs = [
                        Program(launch, architecture)
                        for launch in launches_of(case, Company.of(REAL, canvases), architecture)
                    ]
                for program in programs:
                    if program.key not in made:
                        made[program.key] = program.compile()
                compiled = [made[program.key] for program in programs]
                yield {
                    "case": sweep.case,
                    "operation": sweep.operation,
                    "canvases": canvases,
                    "changes": dict(changes),
                    "spills": max(one.spills for one in compiled),
                    "shared": max(one.shared for one in compiled),
                    "registers": max(one.registers for one in compiled),
                    "programs": min(one.programs for one in compiled),
                }


def _tool(name: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, check=True).stdout


def _count(words: list[str], pattern: str) -> int:
    return sum(re.match(rf"(?:{pattern})(?![A-Z0-9])", word) is not None for word in words)


def main(architecture: str, *only: str) -> None:
    with tempfile.TemporaryDirectory() as cache:
        triton.knobs.cache.dir = cache  # a compile that was done before proves nothing about this compiler
        if only[:1] == ("--candidates",):
            for one in candidate_programs(int(architecture), only[1:]):
                print(json.dumps(one), flush=True)
            return
        if only == ("--defects",):
            from tests.engine import defects

            told = [(program, {name: []}) for name, program in defects.programs(int(architecture))]
        elif only == ("--odd",):
            told = list(odd_programs(int(architecture)))
        else:
            chosen = [case for case in cases(REAL) if case.name.startswith(only or ("",))]
            told = list(programs_of(chosen, int(architecture)).values())
        for program, users in told:
            compiled = program.compile()
            print(json.dumps(asdict(compiled) | {"programs": compiled.programs, "users": users}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
