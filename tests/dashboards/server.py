"""A Prometheus of our own: `dgbatch dashboards export`, in a hurry, on a free port."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from dgbatch.runner.dashboards import RULES, export

HURRY = {  # what the exported files say, and what is said instead so that a test need not wait
    "scrape_interval: 5s": "scrape_interval: 1s",
    "evaluation_interval: 15s": "evaluation_interval: 500ms",
    "refresh_interval: 5s": "refresh_interval: 500ms",
    "interval: 15s": "interval: 500ms",
}
START_S = 60.0


class Prometheus:
    """A context manager. folder: new; drivers are found in its `targets`."""

    def __init__(self, folder: Path):
        self.folder, self.targets = folder, folder / "targets"
        export(str(folder), str(self.targets))
        for name in ("prometheus.yaml", *RULES):
            text = (folder / name).read_text()
            for usual, hurried in HURRY.items():
                text = text.replace(usual, hurried)
            lines = text.splitlines()
            text = "\n".join("        for: 0s" if line.startswith("        for: ") else line for line in lines)
            (folder / name).write_text(text)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"

    def __enter__(self) -> Prometheus:
        self._log = open(self.folder / "log", "w")  # closed at the end
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={self.folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={self.folder / 'data'}",
                f"--web.listen-address={self.address}",
                "--log.level=warn",
            ],
            stdout=self._log,
            stderr=self._log,
        )
        deadline = time.monotonic() + START_S
        while not self._is_ready():
            assert self._process.poll() is None and time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.close()

    def ask(self, what: str, **parameters: str) -> Any:
        """`data` of an answer of its HTTP API. Fails with what the server says."""
        url = f"http://{self.address}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as refusal:
            raise AssertionError(f"{parameters}: {refusal.read().decode()}") from None

    def values(self, expression: str) -> dict[tuple[tuple[str, str], ...], float]:
        """The value of each series now, by its labels; those that are no number are left out."""
        answer = self.ask("query", query=expression)
        assert answer["resultType"] == "vector", f"{expression} is a {answer['resultType']}"
        found = {tuple(sorted(each["metric"].items())): float(each["value"][1]) for each in answer["result"]}
        return {labels: value for labels, value in found.items() if value == value}

    def firing(self) -> dict[str, dict[str, Any]]:
        alerts = self.ask("alerts")["alerts"]
        return {alert["labels"]["alertname"]: alert for alert in alerts if alert["state"] == "firing"}

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=5):
                return True
        except OSError:
            return False
