"""deploy/: the compose file and the PodMonitor. Neither was run: no container runtime is where this is built."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from dgbatch.runner.dashboards import PROVIDER
from tests.dashboards.expressions import DASHBOARDS, ROOT

DEPLOY = ROOT / "deploy"
SELECTOR = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"matchLabels": {"type": "object", "additionalProperties": {"type": "string"}}},
}
ENDPOINT = {
    "type": "object",
    "additionalProperties": False,
    "required": ["port", "honorLabels"],
    "properties": {
        "port": {"type": "string", "pattern": "^[a-z0-9-]{1,15}$"},
        "path": {"const": "/metrics"},
        "interval": {"type": "string", "pattern": "^[0-9]+(ms|s|m)$"},
        "scrapeTimeout": {"type": "string", "pattern": "^[0-9]+(ms|s|m)$"},
        "honorLabels": {"const": True},
    },
}
POD_MONITOR: dict[str, Any] = {  # what we use of monitoring.coreos.com/v1
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "kind": {"const": "PodMonitor"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["selector", "podMetricsEndpoints"],
            "properties": {
                "selector": SELECTOR,
                "podMetricsEndpoints": {"type": "array", "minItems": 1, "items": ENDPOINT},
            },
        },
    },
}


@pytest.fixture
def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_compose_file_fits_the_schema_of_compose() -> None:
    pytest.importorskip("check_jsonschema", reason="pip install check-jsonschema")
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_compose_mounts_what_is_there_and_where_it_is_looked_for(compose: dict[str, Any]) -> None:
    mounts = {}
    for name, service in compose["services"].items():
        for mount in service.get("volumes", []):
            source, target = re.fullmatch(r"(.+?):(/[\w./-]+)(?::ro)?", mount).groups()  # type: ignore[union-attr]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), f"{name} mounts {source}"
            elif not source.startswith("$"):
                assert source in compose["volumes"]
            mounts[target] = source
    rules = yaml.safe_load((DASHBOARDS / "prometheus.yaml").read_text())
    for file in ["prometheus.yaml", *rules["rule_files"]]:
        assert mounts[f"/etc/prometheus/{file}"] == f"../dashboards/{file}"
    folders = {pattern.rpartition("/")[0] for pattern in rules["scrape_configs"][0]["file_sd_configs"][0]["files"]}
    assert {f"/etc/prometheus/{folder}" for folder in folders} <= set(mounts)
    provider = yaml.safe_load((DASHBOARDS / PROVIDER).read_text())["providers"][0]
    assert mounts[provider["options"]["path"]] == "../dashboards"
    home = compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (DASHBOARDS / home.removeprefix(provider["options"]["path"] + "/")).exists()


def test_compose_listens_on_loopback_alone(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert service["network_mode"] == "host", "drivers listen on loopback"
        said = json.dumps([service.get("command"), service.get("environment")])
        assert re.search(r"listen-address=127\.0\.0\.1:|HTTP_ADDR\": \"127\.0\.0\.1", said)


def test_pushgateway_of_the_compose_file_is_scraped() -> None:
    (group,) = json.loads((DEPLOY / "targets" / "pushgateway.json").read_text())
    assert group["targets"] == ["127.0.0.1:9091"]


def test_pod_monitor_has_the_shape_of_one() -> None:
    found = yaml.safe_load((DEPLOY / "podmonitor.yaml").read_text())
    Draft202012Validator(POD_MONITOR).validate(found)
    comment = (DEPLOY / "podmonitor.yaml").read_text()
    assert f"name: {found['spec']['podMetricsEndpoints'][0]['port']}, containerPort: 9464" in comment
    assert "metrics: {port: 9464, host: 0.0.0.0}" in comment
