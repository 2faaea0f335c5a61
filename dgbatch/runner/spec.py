"""What a user writes in job.yaml."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, PrivateAttr, ValidationError

from dgbatch.errors import DgbatchError, JobError, LocationError
from dgbatch.runner import job_yaml
from dgbatch.runner.block import Block
from dgbatch.runner.blocks import (
    AcceptSpec,
    InputSpec,
    MetricsSpec,
    ModelSpec,
    OutputSpec,
    PromptSpec,
    RetrySpec,
    WorkersSpec,
)
from dgbatch.runner.complaints import complaints
from dgbatch.runner.generation import GenerationSpec
from dgbatch.runner.overrides import apply_override
from dgbatch.runner.storage.store_uri import is_uri, parse

DEMO = "demo"  # the packaged prompts as input.path, the packaged checkpoint as model.checkpoint
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
LOCATIONS = (  # may hold ${NAME}
    ("input", "path"), ("output", "path"), ("output", "duckdb"), ("workers", "address"), ("metrics", "push"),
)  # fmt: skip
PATHS = (
    ("input", "path"), ("output", "path"), ("output", "duckdb"), ("model", "checkpoint"), ("metrics", "textfile"),
)  # fmt: skip
SHORTEST_SECRET = 4  # characters; shorter ones stand in any sentence


class JobSpec(Block):
    """One job: prompts in, completions out."""

    version: Literal[1] = Field(description="Version of this file's layout: 1.")
    name: str = Field(
        pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,99})$", description="Letters, digits, dots, dashes and underscores."
    )
    model: ModelSpec = Field(description="Which checkpoint completes the prompts.")
    input: InputSpec = Field(description="Where the prompts come from.")
    prompt: PromptSpec = Field(description="How a row becomes a prompt.")
    generation: GenerationSpec = Field(default=GenerationSpec(), description="How completions are sampled.")
    accept: AcceptSpec | None = Field(default=None, description="When a completion counts as accepted.")
    output: OutputSpec = Field(description="Where the completions go.")
    workers: WorkersSpec = Field(default=WorkersSpec(), description="Who does the work.")
    retry: RetrySpec = Field(default=RetrySpec(), description="When to try again and when to give up.")
    metrics: MetricsSpec = Field(default=MetricsSpec(), description="Where what is measured goes while the job runs.")

    _written: dict[tuple[str, str], str] = PrivateAttr(default_factory=dict)  # locations as written, ${NAME} in place
    _secrets: dict[str, str] = PrivateAttr(
        default_factory=dict
    )  # what a variable holds -> ${NAME}; goes to the workers

    def public(self) -> dict[str, Any]:
        """The whole job as plain data, defaults filled in; a location keeps its ${NAME}, never the secret."""
        data = self.model_dump(mode="json")
        for (block, key), text in self._written.items():
            data[block][key] = text
        return data

    def hide(self, text: str) -> str:
        """The text with ${NAME} in place of what the variable holds, also where the environment is another one."""
        for value in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(value, self._secrets[value])
        return text

    @property
    def secrets(self) -> Mapping[str, str]:
        """What `hide` hides -> what it puts in its place."""
        return self._secrets

    @classmethod
    def from_public(cls, data: Mapping[str, Any]) -> JobSpec:
        """The job that `public` wrote down. A variable that is no longer set stays as it is written."""
        return _validated(json.loads(json.dumps(data)), "run.json", {}, must_expand=False)


def load_job(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> JobSpec:
    """Read, override and check a job file. Raises JobError with every problem it finds, each with its line."""
    path = os.fspath(path)
    data, lines = _read(path)
    for override in overrides:
        set_path = apply_override(data, override, JobSpec)
        lines = {key: line for key, line in lines.items() if not f"{key}.".startswith((f"{set_path}.", f"{set_path}["))}
    _absolute(data, Path(path).absolute().parent)
    return _validated(data, path, lines, must_expand=True)


@contextmanager
def hiding_secrets(spec: JobSpec) -> Iterator[None]:
    """An error that leaves the block names ${NAME}, not what the variable holds."""
    try:
        yield
    except DgbatchError as error:
        said = spec.hide(str(error))
        if said == str(error):
            raise
        raise type(error)(said) from None


def _read(path: str) -> tuple[dict[str, Any], dict[str, int]]:
    try:
        if os.path.isfile(path) and os.path.getsize(path) > job_yaml.MAX_BYTES:
            size = os.path.getsize(path)
            raise JobError(f"{path}: {size:,} bytes; a job file holds at most {job_yaml.MAX_BYTES:,}. Is it the data?")
        text = Path(path).read_bytes()
    except FileNotFoundError:
        raise JobError(f"{path}: no such job file. Give its path, or write one with: dgbatch init") from None
    except IsADirectoryError:
        raise JobError(f"{path}: a folder, not a job file. Name the .yaml file in it.") from None
    except OSError as error:
        raise JobError(f"{path}: cannot be read: {error.strerror}. Check its permissions.") from error
    try:
        data, lines = job_yaml.parse(text)
    except job_yaml.YamlError as error:
        raise JobError(f"{path}: {error}") from error
    if data is None:
        raise JobError(f"{path}: the job file is empty. Write one with: dgbatch init")
    if not isinstance(data, dict):
        kind = "a list" if isinstance(data, list) else "plain text"
        raise JobError(f"{path}: holds {kind}, not keys and values. It begins with 'version: 1'; see: dgbatch init")
    return data, lines


def _validated(data: dict[str, Any], source: str, lines: dict[str, int], must_expand: bool) -> JobSpec:
    written = {}
    for block, key in LOCATIONS:
        inside = data.get(block)
        if isinstance(inside, dict) and isinstance(text := inside.get(key), str) and VARIABLE.search(text):
            written[block, key] = text
            data = {**data, block: {**inside, key: _expand(text, source, f"{block}.{key}", must_expand)}}
    try:
        spec = JobSpec.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False)
    else:
        spec._written.update(written)
        names = {match[1] for text in written.values() for match in VARIABLE.finditer(text)}
        held = {name: os.environ.get(name, "") for name in names}
        spec._secrets.update({value: f"${{{name}}}" for name, value in held.items() if len(value) >= SHORTEST_SECRET})
        _check_locations(spec)
        return spec
    # Raised outside the handler: pydantic's own error holds the values, secrets included.
    raise JobError(complaints(found, JobSpec, source, lines))


def _check_locations(spec: JobSpec) -> None:
    """LocationError for a URI that cannot be, or that would carry a secret into run.json and onto the screen."""
    for setting, text in (("input.path", spec.input.path), ("output.path", spec.output.path)):
        if is_uri(text):
            parse(text, setting)
    if spec.output.duckdb is not None and is_uri(spec.output.duckdb):
        raise LocationError("output.duckdb: a DuckDB file lies on a disk, not in a store. Give a path.")
    if spec.metrics.textfile is not None and is_uri(spec.metrics.textfile):
        raise LocationError("metrics.textfile: node_exporter reads a disk, not a store. Give a path.")
    if spec.metrics.push is not None and not VARIABLE.search(spec.metrics.push):  # not known to who reads run.json
        _check_push(spec.metrics.push, spec._written.get(("metrics", "push"), spec.metrics.push))


def _check_push(url: str, written: str) -> None:
    """LocationError for what is no URL of a gateway, or has a password in it as it is written."""
    try:
        parts, as_written = urlsplit(url), urlsplit(written)
        is_http = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_http = False
    if not is_http or parts.query or parts.fragment:
        raise LocationError("metrics.push: it takes the URL of a Pushgateway, such as http://gateway:9091.")
    if as_written.password is not None and not VARIABLE.fullmatch(as_written.password):
        raise LocationError(
            "metrics.push: a password stands in the URL, and would stand in run.json. Write ${NAME} in its place and "
            "put it into the environment."
        )


def _expand(text: str, source: str, path: str, must_expand: bool) -> str:
    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found:
            return found
        if not must_expand:
            return match[0]
        state = "is empty" if found == "" else "is not set"
        raise JobError(f"{source}: {path}: the environment variable {match[1]} {state}. Run: export {match[1]}=...")

    return VARIABLE.sub(value, text)


def _absolute(data: dict[str, Any], folder: Path) -> None:
    """Make each relative path absolute, from the job file's folder."""
    for block, key in (
        ("input", "path"),
        ("output", "path"),
        ("output", "duckdb"),
        ("model", "checkpoint"),
        ("metrics", "textfile"),
    ):
        inside = data.get(block)
        text = inside.get(key) if isinstance(inside, dict) else None
        if not isinstance(inside, dict) or not isinstance(text, str) or not text or "://" in text:
            continue
        if text == DEMO and block in ("input", "model"):
            continue
        value = VARIABLE.sub(lambda match: os.environ.get(match[1]) or match[0], text)
        if value.startswith("${") or "://" in value or os.path.isabs(value):  # not ours to complete
            continue
        here = os.path.normpath(folder / os.path.expanduser(text))
        if block == "model" and not text.startswith((".", "/", "~")) and not os.path.isdir(here):
            continue  # a hub id
        inside[key] = here
