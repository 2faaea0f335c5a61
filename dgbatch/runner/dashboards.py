"""Grafana dashboards, Prometheus rules and the provisioning of both, as files of your own."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from dgbatch.errors import OutputError

PACKAGE = Path(__file__).parents[1]
BOARDS = ("fleet.json", "job.json", "engine.json")
RULES = ("recording_rules.yaml", "alerts.yaml")
PROMETHEUS = "prometheus.yaml"
DATASOURCE = "grafana/provisioning/datasources/dgbatch.yaml"
PROVIDER = "grafana/provisioning/dashboards/dgbatch.yaml"
RUNBOOKS = "alerts.md"
FILES = (*BOARDS, *RULES, PROMETHEUS, DATASOURCE, PROVIDER, RUNBOOKS)


def export(
    folder: str,
    targets: str,
    prometheus: str = "http://127.0.0.1:9090",
    runbooks: str | None = None,
    force: bool = False,
) -> Sequence[Path]:
    """Write all of FILES, with what is particular to this machine filled in.

    folder:     made if it is not there; a file in it with other content is left alone, unless `force`
    targets:    the folder in which drivers announce themselves; made if it is not there and can be
    prometheus: the URL at which Grafana finds Prometheus
    runbooks:   the URL of docs/alerts.md where the team reads it; else the copy in the folder

    Raises OutputError where the folder cannot be written, or holds files that would be replaced.
    """
    home = Path(folder).absolute()
    texts = {home / name: text.encode() for name, text in _filled_in(home, targets, prometheus, runbooks).items()}
    try:
        changed = [path for path, text in texts.items() if path.exists() and path.read_bytes() != text]
        if changed and not force:
            raise OutputError(
                f"{folder}: {', '.join(str(path.relative_to(home)) for path in changed)}: there already, with other "
                "content. Give another folder, or --force to replace them."
            )
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)
        (home / "more").mkdir(exist_ok=True)
    except OSError as error:
        where = error.filename or folder
        raise OutputError(f"{where}: cannot be written: {error.strerror}. Give another folder.") from error
    with suppress(OSError):  # Prometheus complains of a folder that is not there yet; it may be another machine's
        Path(targets).mkdir(parents=True, exist_ok=True)
    return list(texts)


def _filled_in(home: Path, targets: str, prometheus: str, runbooks: str | None) -> Mapping[str, str]:
    """Text by name. A path is written as JSON writes it, which YAML reads, whatever is in it."""
    book = runbooks or (home / RUNBOOKS).as_uri()
    places = {
        PROMETHEUS: (
            "targets/*.json",
            json.dumps(os.path.join(os.path.abspath(targets), "*.json"), ensure_ascii=False),
        ),
        DATASOURCE: ("http://127.0.0.1:9090", json.dumps(prometheus)),
        PROVIDER: ("/etc/dgbatch/dashboards", json.dumps(str(home), ensure_ascii=False)),
        "alerts.yaml": ("docs/alerts.md#", f"{book}#"),
    }
    texts = {name: _ours(name).read_text(encoding="utf-8") for name in FILES}
    texts[RUNBOOKS] = re.sub(r"\[([^]]+)\]\(\w+\.md\)", r"\1", texts[RUNBOOKS])  # pages that are not in the folder
    for name, (usual, particular) in places.items():
        assert usual in texts[name], f"{name} has no {usual}"
        texts[name] = texts[name].replace(usual, particular)
    return texts


def _ours(name: str) -> Path:
    """The file in the installed package, or in a checkout: pyproject.toml puts the one where the other is."""
    packed = PACKAGE / "dashboards" / name
    if packed.exists():
        return packed
    return PACKAGE.parent / ("docs" if name == RUNBOOKS else "dashboards") / name
