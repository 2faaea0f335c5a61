"""The rules, held by Prometheus' own tool: they are valid, and each alert fires and clears."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.dashboards.expressions import DASHBOARDS, ROOT, RULES, alerts, panels

TESTS = Path(__file__).parent / "alerts_test.yaml"
RUNBOOKS = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not there: apt-get install prometheus"
)


def promtool(*arguments: str | Path) -> str:
    """What it says; it must be content."""
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
@pytest.mark.parametrize("name", RULES)
def test_promtool_takes_the_rules(name: str) -> None:
    assert "SUCCESS" in promtool("check", "rules", DASHBOARDS / name)


@needs_promtool
def test_promtool_takes_the_configuration() -> None:
    assert "2 rule files found" in promtool("check", "config", DASHBOARDS / "prometheus.yaml")


@needs_promtool
def test_alerts_fire_and_clear_as_their_unit_tests_say() -> None:
    assert "SUCCESS" in promtool("test", "rules", TESTS)


@needs_promtool
@pytest.mark.parametrize(
    "spoiled", ["({}) and vector(0) > 1", "last_over_time(({})[90m:5m])"], ids=["never fires", "never clears"]
)
def test_the_unit_tests_notice_any_alert_that_never_fires_or_never_clears(spoiled: str, tmp_path: Path) -> None:
    tests = yaml.safe_load(TESTS.read_text()) | {"rule_files": list(RULES)}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    shutil.copy(DASHBOARDS / RULES[0], tmp_path)
    rules = yaml.safe_load((DASHBOARDS / RULES[1]).read_text())
    for rule in rules["groups"][0]["rules"]:
        rule["expr"] = spoiled.format(rule["expr"])
    (tmp_path / RULES[1]).write_text(yaml.safe_dump(rules))
    done = subprocess.run(
        ["promtool", "test", "rules", tmp_path / "tests.yaml"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert set(re.findall(r"alertname: ?(\w+)", done.stderr)) == {alert["alert"] for alert in alerts()}


def test_every_alert_has_a_severity_a_summary_and_a_runbook_that_says_what_to_do() -> None:
    for alert in alerts():
        name = alert["alert"]
        assert alert["labels"]["severity"] in ("critical", "warning", "info"), name
        assert "$labels.job" in alert["annotations"]["summary"], name
        assert alert["annotations"]["runbook_url"] == f"docs/alerts.md#{name.lower()}"
        section = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", RUNBOOKS, re.MULTILINE | re.DOTALL)
        assert section, f"docs/alerts.md has no section {name}"
        for heading in ("**What it means.**", "**What to look at.**", "**What to do.**"):
            assert heading in section[1], f"{name}: {heading} is missing"
    assert set(re.findall(r"^## (\w+)$", RUNBOOKS, re.MULTILINE)) == {alert["alert"] for alert in alerts()}


def test_panels_that_runbooks_send_to_exist() -> None:
    quoted = set(re.findall(r'"([A-Z][^"]+)"', RUNBOOKS))
    assert quoted and quoted <= {panel["title"] for panel in panels("job.json")}
