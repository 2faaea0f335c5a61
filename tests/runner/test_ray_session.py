from __future__ import annotations

import sys

import pytest

from dgbatch.errors import RunFailed
from dgbatch.runner import ray_session as module
from dgbatch.runner.ray_session import ray_reason, ray_session


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """No Ray setting in the environment, and nothing of Ray's in the home folder."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    return monkeypatch


def environment() -> dict[str, str | None]:
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED")
    return {name: module.os.environ.get(name) for name in names}


def test_local_ray_asks_for_a_token_of_its_own(bare):
    module._set_ray_environment("local")
    found = environment()
    assert (found["RAY_AUTH_MODE"], len(found["RAY_AUTH_TOKEN"] or ""), found["RAY_USAGE_STATS_ENABLED"]) == (
        "token",
        64,
        "0",
    )


def test_settings_of_the_user_stay(bare):
    bare.setenv("RAY_AUTH_MODE", "disabled")
    bare.setenv("RAY_USAGE_STATS_ENABLED", "1")
    module._set_ray_environment("local")
    assert environment() == {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": None, "RAY_USAGE_STATS_ENABLED": "1"}


def test_token_of_the_user_is_used(bare):
    bare.setenv("RAY_AUTH_TOKEN", "mine")
    module._set_ray_environment("local")
    assert environment()["RAY_AUTH_TOKEN"] == "mine"


def test_program_that_imported_ray_before_keeps_its_settings(bare):
    bare.setitem(sys.modules, "ray", FakeRay())
    module._set_ray_environment("local")
    assert environment() == {"RAY_AUTH_MODE": None, "RAY_AUTH_TOKEN": None, "RAY_USAGE_STATS_ENABLED": "0"}


def test_cluster_is_asked_with_a_token_only_when_there_is_one(bare, tmp_path):
    module._set_ray_environment("ray://head:10001")
    assert environment()["RAY_AUTH_MODE"] == "disabled"
    bare.delenv("RAY_AUTH_MODE")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    module._set_ray_environment("ray://head:10001")
    assert environment()["RAY_AUTH_MODE"] == "token"


class FakeRay:
    """As much of Ray as a session touches."""

    def __init__(self, error: Exception | None = None):
        self.error = error
        self.started_with: dict = {}
        self.stopped = False
        self._private = self
        self.worker = self
        self.print_to_stdstream = print

    def is_initialized(self) -> bool:
        return False

    def init(self, **options) -> None:
        self.started_with = options
        if self.error:
            raise self.error

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def shutdown(self) -> None:
        assert self.print_to_stdstream is not print, "it may still print"
        self.stopped = True


def test_session_starts_a_quiet_ray_on_this_machine_and_stops_it(bare):
    ray = FakeRay()
    bare.setitem(sys.modules, "ray", ray)
    with ray_session("local") as resources:
        assert resources == {"CPU": 2.0}
        assert ray.print_to_stdstream is not print
        assert not ray.stopped
    assert ray.stopped
    assert ray.print_to_stdstream is print
    assert ray.started_with["address"] == "local"
    assert ray.started_with["include_dashboard"] is False
    assert ray.started_with["log_to_driver"] is False


def test_session_on_a_cluster_asks_for_nothing_that_only_a_new_one_can_give(bare):
    ray = FakeRay()
    bare.setitem(sys.modules, "ray", ray)
    with ray_session("10.0.0.1:6379"):
        pass
    assert ray.started_with == {"address": "10.0.0.1:6379", "log_to_driver": False, "logging_level": "ERROR"}


def test_cluster_that_is_not_there_is_one_clear_error(bare):
    bare.setitem(sys.modules, "ray", FakeRay(ConnectionError("could not connect\nto the address")))
    with pytest.raises(RunFailed, match=r"workers\.address: .* '10\.0\.0\.1:6379': to the address\. .*dgbatch doctor"):  # noqa: SIM117
        with ray_session("10.0.0.1:6379"):
            pass


def test_machine_too_busy_to_start_ray_is_one_clear_error(bare):
    bare.setitem(sys.modules, "ray", FakeRay(Exception("The current node timed out during startup.")))
    with pytest.raises(RunFailed, match=r"'local': The current node timed out during startup\. "):  # noqa: SIM117
        with ray_session("local"):
            pass


def test_reason_of_a_dead_process_is_without_rays_advice():
    text = (
        "The actor died.\nWorker exit type: SYSTEM_ERROR Worker exit detail: End of file. Some common causes include: x"
    )
    assert ray_reason(RuntimeError(text)) == "End of file."
    assert ray_reason(RuntimeError("first\nlast\n")) == "last"
