from __future__ import annotations

import importlib.metadata
from types import SimpleNamespace

import pytest

from dgbatch.runner import doctor
from dgbatch.runner.doctor import Check


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def fake_torch(gpus: int, cuda: str | None = "12.8") -> SimpleNamespace:
    return SimpleNamespace(
        __version__="2.13.0",
        version=SimpleNamespace(cuda=cuda),
        cuda=SimpleNamespace(
            is_available=lambda: gpus > 0,
            device_count=lambda: gpus,
            mem_get_info=lambda index: (100 * 10**9, 150 * 10**9),
            get_device_name=lambda index: "NVIDIA H200",
        ),
    )


def test_this_machine_can_run_the_tests(tmp_path):
    found = by_name(doctor.examine(str(tmp_path)))
    for name in ("ray", "pyarrow", "duckdb", "pydantic", "cpu", "memory"):
        assert found[name].ok, found[name]
    assert "cores" in found["cpu"].found


def test_missing_torch_names_the_extra(monkeypatch):
    monkeypatch.setattr(doctor, "_import", lambda name: None)
    torch = by_name(doctor.engine())["torch"]
    assert torch.ok is False
    assert "pip install 'dgbatch[engine]'" in torch.fix


def test_gpus_are_listed_with_their_memory(monkeypatch):
    monkeypatch.setattr(doctor, "_import", lambda name: fake_torch(2))
    found = by_name(doctor.engine())
    assert found["gpu 1"] == Check("gpu 1", True, "NVIDIA H200, 100 GB of 150 GB free, CUDA 12.8")


def test_gpu_without_triton_is_missing_something_and_a_cpu_is_not(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    assert doctor.triton(fake_torch(1)).ok is False
    assert "dgbatch[kernels]" in doctor.triton(fake_torch(1)).fix
    assert doctor.triton(fake_torch(0)).ok is None
    monkeypatch.setattr(doctor, "_version", lambda name: "3.7.0")
    assert doctor.triton(fake_torch(1)) == Check("triton", True, "3.7.0")


@pytest.mark.parametrize(("cuda", "words"), [("12.8", "built for CUDA 12.8 and sees no GPU"), (None, "built for CPUs")])
def test_no_gpu_says_why_and_is_no_fault(cuda, words):
    (check,) = doctor.gpus(fake_torch(0, cuda))
    assert check.ok is None
    assert words in check.found


@pytest.mark.parametrize(("version", "ok"), [((3, 9), False), ((3, 11), True), ((3, 14), None)])
def test_python_is_checked_against_what_is_tested(monkeypatch, version, ok):
    monkeypatch.setattr(doctor.sys, "version_info", version)
    assert doctor.python().ok is ok


def test_package_that_is_not_installed_says_how_to_get_it(monkeypatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", missing)
    assert doctor.packages()[0] == Check("ray", False, "not installed", "pip install dgbatch")


def test_nearly_full_disk_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**9))
    check = doctor.disk(str(tmp_path))
    assert check.ok is None
    assert "output.path" in check.fix
