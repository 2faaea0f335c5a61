"""`dgbatch dashboards export`: what Grafana and Prometheus take as it is, from a checkout and from a wheel."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml

from dgbatch.runner.dashboards import BOARDS, DATASOURCE, FILES, PROVIDER, export
from tests.cli.command import dgbatch
from tests.dashboards.expressions import DASHBOARDS, ROOT, RULES


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder whose name YAML would misread."""
    return tmp_path / "my #1: boards"


def test_export_writes_what_is_committed_with_the_paths_of_this_machine(odd: Path, capfd) -> None:
    targets = odd.parent / "targets here"
    left = dgbatch(
        capfd, "dashboards", "export", str(odd), "--targets", str(targets), "--prometheus", "http://p:9", "--json"
    )
    assert left.code == 0
    assert left.json == {"folder": str(odd), "files": [str(odd / name) for name in FILES]}
    for name in (*BOARDS, RULES[0]):
        assert (odd / name).read_bytes() == (DASHBOARDS / name).read_bytes()
    config, alerts, source, provider = (
        yaml.safe_load((odd / name).read_text()) for name in ("prometheus.yaml", "alerts.yaml", DATASOURCE, PROVIDER)
    )
    scrape = config["scrape_configs"][0]
    assert scrape["honor_labels"] is True
    assert scrape["file_sd_configs"][0]["files"] == [f"{targets}/*.json", "more/*.json"]
    assert source["datasources"][0]["url"] == "http://p:9"
    assert source["datasources"][0]["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    assert provider["providers"][0]["options"]["path"] == str(odd)
    for rule in alerts["groups"][0]["rules"]:
        assert rule["annotations"]["runbook_url"] == f"{(odd / 'alerts.md').as_uri()}#{rule['alert'].lower()}"
    assert "](" not in (odd / "alerts.md").read_text(), "a link to a page that is not there"


def test_targets_are_where_drivers_of_this_user_announce_themselves(odd: Path, capfd, monkeypatch) -> None:
    shared = odd.parent / "shared" / "targets"
    monkeypatch.setenv("DGBATCH_TARGETS", str(shared))
    assert dgbatch(capfd, "dashboards", "export", str(odd), "--runbooks", "https://wiki/alerts").code == 0
    assert f"{shared}/*.json" in (odd / "prometheus.yaml").read_text()
    assert shared.is_dir(), "Prometheus complains of a folder that is not there"
    assert "runbook_url: https://wiki/alerts#dgbatchstalled" in (odd / "alerts.yaml").read_text()


def test_export_again_is_quiet_and_replaces_what_was_changed_only_when_told(odd: Path, capfd) -> None:
    for _ in range(2):
        assert dgbatch(capfd, "dashboards", "export", str(odd)).code == 0
    (odd / "job.json").write_text("mine")
    left = dgbatch(capfd, "dashboards", "export", str(odd))
    assert left.code == 2
    assert "job.json: there already, with other content" in left.err and "--force" in left.err
    assert (odd / "job.json").read_text() == "mine"
    assert dgbatch(capfd, "dashboards", "export", str(odd), "--force").code == 0
    assert (odd / "job.json").read_bytes() == (DASHBOARDS / "job.json").read_bytes()


def test_export_to_where_nothing_can_be_written_says_so(tmp_path: Path, capfd) -> None:
    (tmp_path / "file").write_text("")
    left = dgbatch(capfd, "dashboards", "export", str(tmp_path / "file" / "boards"))
    assert left.code == 2
    assert "cannot be written" in left.err and "Give another folder" in left.err
    (tmp_path / "taken" / "job.json").mkdir(parents=True)
    left = dgbatch(capfd, "dashboards", "export", str(tmp_path / "taken"), "--force")
    assert left.code == 2
    assert f"{tmp_path / 'taken' / 'job.json'}: cannot be written: Is a directory" in left.err


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not there: apt-get install prometheus")
def test_promtool_takes_what_is_exported(odd: Path) -> None:
    export(str(odd), targets=str(odd / "targets"))
    done = subprocess.run(["promtool", "check", "config", odd / "prometheus.yaml"], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_wheel_has_all_that_is_exported(tmp_path: Path) -> None:
    builder = pytest.importorskip("hatchling.builders.wheel", reason="pip install hatchling")
    shutil.copytree(ROOT / "dashboards", tmp_path / "dashboards")
    for name in ("pyproject.toml", "README.md", "docs/alerts.md", "dgbatch/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (wheel,) = builder.WheelBuilder(str(tmp_path)).build(directory=str(tmp_path / "dist"), versions=["standard"])
    with zipfile.ZipFile(wheel) as packed:
        inside = {name.removeprefix("dgbatch/dashboards/") for name in packed.namelist() if "/dashboards/" in name}
        assert inside == set(FILES)
        assert packed.read("dgbatch/dashboards/alerts.md") == (ROOT / "docs" / "alerts.md").read_bytes()
