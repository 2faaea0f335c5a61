"""What commands print: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dgbatch.errors import DgbatchError
from dgbatch.runner.terminal.plain import plural as plural
from dgbatch.runner.terminal.plain import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

    from dgbatch.runner.terminal.display import Display

LINE_EVERY_S = 10.0  # of `counting`, where there is no terminal


def print_json(answer: Mapping[str, Any]) -> None:
    """The one object of --json."""
    print(json.dumps(answer, ensure_ascii=False, default=str), flush=True)


def print_error(error: DgbatchError, as_json: bool = False) -> None:
    """Thing, value and fix in a few lines; for programs with --json too."""
    if as_json:
        print_json({"error": {"type": type(error).__name__, "message": str(error), "exit_code": error.exit_code}})
    if not sys.stderr.isatty():
        print(printable(f"error: {error}"), file=sys.stderr)
        return
    from rich.console import Console

    screen = Console(stderr=True, highlight=False, markup=False)
    for line in printable(f"error: {error}").splitlines():
        screen.print(painted(line), soft_wrap=True)


def painted(line: str) -> Text:
    """A line of an error as a terminal shows it: what was in red, what is in green."""
    from rich.text import Text

    text = Text(line)
    if line.startswith("error:"):
        text.stylize("bold red", 0, len("error:"))
    elif line.startswith(("    - ", "    + ")):
        text.stylize("red" if line[4] == "-" else "green")
    elif line.startswith("  ") and (arrow := line.find(" -> ")) > 0:
        text.stylize("red", line.find(": ") + 2, arrow)
        text.stylize("green", arrow + len(" -> "))
    return text


def leaving(display: Display, as_json: bool) -> Callable[[DgbatchError], None]:
    """What ends the process from any thread, its display first."""

    def end(error: DgbatchError) -> None:
        display.close()
        leave(error, as_json)

    return end


def leave(error: DgbatchError, as_json: bool = False) -> None:
    """End the process from any thread, at once, as `main` would: for a main thread that cannot be reached."""
    print_error(error, as_json)
    sys.stderr.flush()
    os._exit(error.exit_code)


def show(*things: RenderableType) -> None:
    """For people, on standard output; as wide as it needs to be where no terminal cuts it."""
    screen = console()
    for thing in things:
        screen.print(printable(thing) if isinstance(thing, str) else thing, soft_wrap=isinstance(thing, str))


def say(line: str) -> None:
    """For people, on standard error."""
    print(printable(line), file=sys.stderr, flush=True)


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """To be told (done, of all). Shown on standard error: a bar on a terminal, a line now and then elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    screen = Console(stderr=True)
    if screen.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=screen, transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, of: bar.update(task, completed=done, total=of)
        return
    said_at = time.monotonic()

    def tell(done: int, of: int) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= LINE_EVERY_S:
            said_at = time.monotonic()
            say(f"{what}: {done:,} of {of:,}")

    yield tell


def console() -> Console:
    from rich.console import Console

    screen = Console(highlight=False, markup=False, emoji=False)  # or an id a:100:b would be shown as another one
    return screen if screen.is_terminal else Console(highlight=False, markup=False, emoji=False, width=10_000)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[str] = ()) -> Table:
    """A plain table; the columns named in `right` hold numbers."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        made.add_column(Text(printable(name)), justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(printable(shown(value))) for value in row))
    return made


def shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def invoked_as() -> str:
    """What to type for dgbatch: its name where the shell finds it, else the path it was started by."""
    started_by_path = os.path.basename(sys.argv[0]) == "dgbatch" and not shutil.which("dgbatch")
    return short(os.path.abspath(sys.argv[0])) if started_by_path else "dgbatch"


def short(path: str) -> str:
    """The path as a person would type it here."""
    relative = os.path.relpath(path) if "://" not in path else path
    return path if relative.startswith("..") else relative
