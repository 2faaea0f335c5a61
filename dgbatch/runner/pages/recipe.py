"""How somebody else makes this run again: its job in one file, and what to type."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from dgbatch.runner.run_folder import Run


@dataclass(frozen=True, slots=True)
class Recipe:
    """To be pasted into a shell."""

    job: str  # YAML: the job as it ran, overrides and defaults written out, ${NAME} in place of secrets
    submitted: str  # the command of the last submit; empty where the run does not know it
    commands: tuple[str, ...]
    versions: dict[str, str]


def recipe(run: Run, events: Any) -> Recipe:
    """Of this run. The job has the run's fingerprint as long as the input files are the same."""
    public = run.info["spec"]
    job = _said(public)
    if public.get("metrics", {}).get("port", 0) is None:  # the one null that is not what a job has without the key
        job["metrics"]["port"] = None
    name, found = public["name"], run.info.get("versions", {})
    package = f"dgbatch=={found['dgbatch']}" if "dgbatch" in found else "dgbatch"
    submitted = [event["command"] for event in events if event.get("kind") == "started" and event.get("command")]
    file, again = f"{name}.yaml", f"runs/{name}-again"
    return Recipe(
        job=yaml.safe_dump(job, sort_keys=False, allow_unicode=True, width=10_000),
        submitted=str(submitted[-1]) if submitted else "",
        commands=(
            f"pip install {shlex.quote(package)}",
            f"dgbatch plan {shlex.quote(file)}",
            f"dgbatch submit {shlex.quote(file)} --set {shlex.quote(f'output.path={again}')}",
            shlex.join(["dgbatch", "diff", run.path, again]),
        ),
        versions={str(package): str(version) for package, version in found.items()},
    )


def _said(value: Any) -> Any:
    """Without the keys that say nothing."""
    if isinstance(value, dict):
        return {key: _said(inside) for key, inside in value.items() if inside is not None}
    return [_said(inside) for inside in value] if isinstance(value, (list, tuple)) else value
