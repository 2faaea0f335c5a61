"""The blocks of the job file, but for `generation`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dgbatch.runner.block import Block, Text

# repr=False keeps resolved secrets out of logs and tracebacks.


class ModelSpec(Block):
    """Which checkpoint completes the prompts."""

    checkpoint: Text = Field(description="A folder, a hub id such as google/diffusiongemma-26B-A4B-it, or demo.")
    revision: Text | None = Field(default=None, description="Git revision of a hub id; main when left out.")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto", description="auto is bfloat16 on a GPU and float32 on a CPU."
    )


class InputSpec(Block):
    """Where the prompts come from."""

    path: Text = Field(
        repr=False,
        description="A file, folder or glob of .parquet, .jsonl, .csv or .arrow files, on a disk or at s3://, "
        "gs://, abfs://; or demo.",
    )
    id: Text | None = Field(
        default=None, description="Column that names each row; (file, row group, row) when left out."
    )
    where: Text | None = Field(
        default=None, description="SQL condition on the columns; rows that fail it are left out."
    )
    limit: int | None = Field(default=None, ge=1, description="Take only this many rows, the first ones.")


class PromptSpec(Block):
    """How a row becomes a prompt: a template, or a column that already holds messages."""

    template: Text | None = Field(
        default=None, description="Jinja text of the user's turn; {{ column }} takes a value."
    )
    messages: Text | None = Field(
        default=None, description="Column with a list of {role, content}, in place of a template."
    )
    system: Text | None = Field(default=None, description="Jinja text of the system turn.")
    thinking: bool = Field(default=False, description="Let the model think before it answers.")

    @model_validator(mode="after")
    def _one_of_two(self) -> PromptSpec:
        if (self.template is None) == (self.messages is None):
            had = "has neither" if self.template is None else "has both"
            raise ValueError(f"{had}. Give either template (text with {{{{ column }}}}) or messages (a column's name).")
        for name in ("template", "system"):
            if (text := getattr(self, name)) is not None and not text.strip():
                raise ValueError(f"{name} is blank. Write the text of the turn.")
        return self


class RuleSpec(Block):
    """One rule that a completion passes or not."""

    equals: Text = Field(description="Column with the right answer; compared without the spaces around both.")


class AcceptSpec(Block):
    """When a completion counts as accepted."""

    rules: tuple[RuleSpec, ...] = Field(strict=False, min_length=1, description="All of them must hold.")

    @model_validator(mode="after")
    def _each_once(self) -> AcceptSpec:
        if len(set(self.rules)) < len(self.rules):
            raise ValueError("the same rule stands there twice. Remove one.")
        return self


class OutputSpec(Block):
    """Where the completions go."""

    path: Text = Field(repr=False, description="The run folder, or s3://, gs://, abfs://; made if it is not there.")
    format: Literal["parquet", "arrow"] = Field(default="parquet", description="Format of the data files.")
    columns: tuple[Text, ...] = Field(default=(), strict=False, description="Input columns to carry into the output.")
    metrics: bool = Field(
        default=False,
        description="Add revised_tokens, mean_entropy, queue_s, prefill_s and denoise_s to each row. The times differ "
        "between two runs, so the bytes of the files do too.",
    )
    films: int = Field(
        default=4, ge=0, le=64, description="Rows whose denoising is kept step by step, to be looked at in the report."
    )
    duckdb: Text | None = Field(
        default=None, repr=False, description="A DuckDB file to write the completions to at the end."
    )

    @model_validator(mode="after")
    def _each_once(self) -> OutputSpec:
        if repeated := sorted({name for name in self.columns if self.columns.count(name) > 1}):
            raise ValueError(f"columns names {repeated[0]!r} twice. Remove one.")
        return self


class WorkersSpec(Block):
    """Who does the work. Nothing here changes a completion."""

    count: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="Workers; auto is one per GPU, or one per CPU core where there is no GPU."
    )
    gpus: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        default="auto", description="GPUs of each worker; auto is 1 where there are GPUs, else 0."
    )
    canvases: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = Field(
        default="auto",
        description="Canvases in flight in each worker; auto measures which number is best when the worker starts.",
    )
    shard_rows: int = Field(
        default=512, ge=1, le=1_000_000, description="Most rows in a shard: the unit of retry and commit."
    )
    address: Text = Field(default="local", repr=False, description="Ray address; local starts Ray on this machine.")


class RetrySpec(Block):
    """When to try again and when to give up."""

    shard_attempts: int = Field(
        default=3, ge=1, description="Tries of one shard before it is given up, or searched for the row that kills."
    )
    max_failed_ratio: float = Field(
        default=1.0, ge=0, le=1, description="The run fails above this share of quarantined rows."
    )
    stall_timeout_s: float = Field(
        default=300.0, gt=0, description="A worker silent for this many seconds is replaced."
    )


class MetricsSpec(Block):
    """Where what is measured goes while the job runs. Nothing here changes a completion."""

    port: Annotated[int, Field(ge=0, le=65_535)] | None = Field(
        default=0, description="Port of /metrics for Prometheus; 0 is any that is free, null is no endpoint."
    )
    host: Text = Field(
        default="127.0.0.1", description="Address it listens on; 0.0.0.0 or :: lets other machines read it."
    )
    push: Text | None = Field(
        default=None, repr=False, description="URL of a Pushgateway that gets the metrics too, also the last ones."
    )
    textfile: Text | None = Field(
        default=None, description="A .prom file to write at the end, where node_exporter looks for text files."
    )
    deadline_s: float | None = Field(
        default=None, gt=0, description="Seconds from the first submit within which the run is to be done; for alerts."
    )

    @model_validator(mode="after")
    def _usable(self) -> MetricsSpec:
        if self.textfile is not None and not self.textfile.endswith(".prom"):
            raise ValueError(f"textfile: {self.textfile} does not end in .prom, so node_exporter would not read it.")
        return self
