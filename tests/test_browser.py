"""The browser that other tests look at pages with: it notices what goes wrong in them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.browser import DESKTOP, PHONE, Chromium

WIDE = "<div style='width: 500px; height: 10px'></div>"


def test_a_page_that_does_nothing_wrong_has_no_complaints(browser: Chromium, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(f"<title>A page</title>{WIDE}<script>document.title += '!'</script>")
    with browser.open(file) as sheet:
        sheet.wait("document.title === 'A page!'")
        assert (sheet.errors, sheet.requests, sheet.overflow) == ([], [], 0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("<script>console.error('no such thing')</script>", "no such thing"),
        ("<script>console.warn('old')</script>", "old"),
        ("<script>nowhere()</script>", "nowhere is not defined"),
        ("<img src='http://127.0.0.1:9/x.png'>", "http://127.0.0.1:9/x.png"),
    ],
    ids=["error", "warning", "exception", "request"],
)
def test_what_goes_wrong_in_a_page_is_kept(browser: Chromium, wrong: str, said: str) -> None:
    with browser.open(f"<p>{wrong}</p>") as sheet:
        assert any(said in error for error in sheet.errors)
        assert sheet.requests == (["http://127.0.0.1:9/x.png"] if "img" in wrong else [])


def test_a_page_is_seen_at_the_size_and_in_the_colours_that_were_asked(browser: Chromium, tmp_path: Path) -> None:
    for size, scheme, still in ((DESKTOP, "light", False), (PHONE, "dark", True)):
        with browser.open(f"<meta name=viewport content='width=device-width'>{WIDE}", size, scheme, still) as sheet:
            asked = ("(prefers-color-scheme: dark)", "(prefers-reduced-motion: reduce)")
            seen = sheet.page.evaluate("queries => queries.map(query => matchMedia(query).matches)", list(asked))
            assert seen == [scheme == "dark", still]
            assert (sheet.overflow > 0) == (size == PHONE)
            picture = sheet.screenshot(tmp_path / f"{scheme}.png").read_bytes()
            assert struct.unpack(">I", picture[16:20])[0] >= size[0]
