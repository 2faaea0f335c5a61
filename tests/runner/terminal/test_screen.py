from __future__ import annotations

import io

import pyte
import pytest

from dgbatch.runner.terminal.screen import BEGIN, END, Screen


class Seen:
    """A Screen, and the terminal that people see it on, with a line of theirs above."""

    def __init__(self, columns: int = 20, rows: int = 6):
        self.terminal = pyte.Screen(columns, rows)
        self._stream = pyte.Stream(self.terminal)
        self._stream.feed("$ mine\r\n")
        self._file = io.StringIO()
        self.screen = Screen(self._file)

    def written(self) -> str:
        """Since the last time; the terminal shows it."""
        text = self._file.getvalue()
        self._file.seek(0)
        self._file.truncate()
        self._stream.feed(text)
        return text

    @property
    def lines(self) -> list[str]:
        self.written()
        return [line.rstrip() for line in self.terminal.display if line.strip()]

    def paint(self, *lines: str) -> None:
        self.screen.paint(lines, self.terminal.columns, self.terminal.lines)


@pytest.fixture
def seen() -> Seen:
    return Seen()


def test_lines_change_in_place(seen):
    seen.paint("one", "two")
    assert seen.lines == ["$ mine", "one", "two"]
    seen.paint("one", "2")
    assert seen.lines == ["$ mine", "one", "2"]
    seen.paint("one", "2", "three")
    seen.paint("1")
    assert seen.lines == ["$ mine", "1"]
    seen.screen.clear()
    assert seen.lines == ["$ mine"]
    assert (seen.terminal.cursor.x, seen.terminal.cursor.y) == (0, 1)


def test_a_change_is_one_write_of_what_is_new(seen):
    seen.paint("one", "two", "three")
    seen.written()
    seen.paint("one", "2", "three")
    text = seen.written()
    assert text.startswith(BEGIN) and text.endswith(END)
    assert "2" in text and "one" not in text and "three" not in text
    assert "\x1b[2J" not in text
    seen.paint("one", "2", "three")
    assert seen.written() == ""


def test_between_two_writes_the_terminal_is_as_it_was(seen):
    modes = set(seen.terminal.mode)
    seen.paint("one")
    seen.written()
    assert not seen.terminal.cursor.hidden
    assert seen.terminal.mode == modes


def test_more_lines_than_the_terminal_has_are_left_out_and_nothing_scrolls_twice(seen):
    seen.paint(*"abcdefgh")
    assert seen.lines == list("abcde")
    seen.paint(*"ABCDEFGH")
    assert seen.lines == list("ABCDE")


def test_what_is_printed_meanwhile_stands_above(seen):
    seen.paint("one", "two")
    seen.screen.above("a warning\nof two lines")
    assert seen.lines == ["$ mine", "a warning", "of two lines", "one", "two"]
    seen.paint("one", "2")
    assert seen.lines[-3:] == ["of two lines", "one", "2"]


def test_a_wider_terminal_gets_wider_lines(seen):
    seen.paint("narrow", "two")
    seen.written()
    seen.terminal.resize(6, 40)
    seen.paint("w" * 39, "two")
    assert seen.lines == ["$ mine", "w" * 39, "two"]


def test_a_terminal_that_became_narrower_and_broke_the_lines_is_left_clean():
    """As tmux, VTE, kitty and others do it; pyte does not, so what they would show is written down here."""
    seen = Seen(columns=10)
    seen.paint("\x1b[1mabcdef\x1b[0m", "ghi")
    seen.written()
    broken = Seen(columns=4)
    broken._stream.feed("abcd\r\nef\r\nghi\r\n")
    broken.screen = seen.screen
    seen.screen.paint(["abc"], 4, 6)
    broken._stream.feed(seen.written())
    assert broken.lines == ["$ mi", "ne", "abc"]


def test_a_lower_terminal_keeps_the_last_lines_out_of_each_others_way():
    seen = Seen(rows=8)
    seen.paint(*"abcdef")
    seen.written()
    seen.terminal.resize(4, 20)
    seen.terminal.cursor.y = 3
    seen.paint(*"ABC")
    assert seen.lines == ["A", "B", "C"]
