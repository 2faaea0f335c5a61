"""Two runs side by side as one HTML page that needs nothing else. diff.html is the page, page.css its look.

Everything from data is escaped by Jinja, and the page forbids itself the network and all scripts.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from dgbatch.errors import of_os_error
from dgbatch.runner.difference import setting_text
from dgbatch.runner.pages.comparison import change, number
from dgbatch.runner.pages.page import refuse_foreign
from dgbatch.runner.terminal.words import around, word_difference

if TYPE_CHECKING:
    from dgbatch.runner.pages.comparison import Comparison

HERE = Path(__file__).parent
MARK = '<meta name="generator" content="dgbatch diff">'  # of diff.html
LONGEST = 4_000  # characters of an example


def write_page(found: Comparison, path: str) -> None:
    """Write the page to this file. Raises OutputError where it cannot be, or a file is there that is none of ours."""
    refuse_foreign("--html", path, MARK, "diff")
    beside = f"{path}.{os.getpid()}.partial"
    try:
        Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
        Path(beside).write_text(render(found), encoding="utf-8", errors="replace")
        os.replace(beside, path)
    except OSError as error:
        Path(beside).unlink(missing_ok=True)
        raise of_os_error(error, f"--html {path}: cannot be written", "Name another file.") from error


def render(found: Comparison) -> str:
    """The page."""
    examples = [(each, around(word_difference(each.a.text, each.b.text), LONGEST)) for each in found.rows.examples]
    return _template().render(
        found=found,
        rows=found.rows,
        examples=examples,
        style=(HERE / "page.css").read_text(encoding="utf-8") + (HERE / "diff.css").read_text(encoding="utf-8"),
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {
        "setting": setting_text,
        "number": number,
        "change": change,
        "share": _share,
        "plural": _plural,
    }
    return environment.get_template("diff.html")


def _plural(many: int, thing: str) -> str:
    return f"{many:,} {thing}{'' if many == 1 else 's'}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"
