"""A headless Chromium for tests of what we draw: one per module, a fresh page per test; tests/conftest.py hands it on.

It is the machine's own Chromium, driven by Playwright; where one of them is missing, the tests that want it skip and
say what to install.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
DESKTOP = (1280, 900)  # width, height in CSS pixels
PHONE = (390, 844)
LIMIT_S = 20.0  # of every wait inside a page


class Sheet:
    """One open page, and all that it complained of."""

    def __init__(self, page: Page):
        self.page = page
        self._errors: list[str] = []
        self.requests: list[str] = []  # URLs that it asked a network for
        page.set_default_timeout(LIMIT_S * 1000)
        page.on("console", lambda said: self._errors.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self._errors.append(str(error)))
        page.on("requestfailed", lambda request: self._errors.append(f"{request.url}: {request.failure}"))
        page.on("request", lambda request: self._asked(request.url))

    def _asked(self, url: str) -> None:
        if not url.startswith(("file:", "data:", "blob:", "about:")):
            self.requests.append(url)

    @property
    def errors(self) -> list[str]:
        """What its console complained of, exceptions that nobody caught, and requests that failed."""
        self.page.evaluate("0")  # its answer comes after all that the page said before
        return self._errors

    def wait(self, condition: str) -> None:
        """Until this JavaScript expression is true. Playwright's own wait asks in the page, which may forbid it."""
        deadline = time.monotonic() + LIMIT_S
        while not self.page.evaluate(condition):
            assert time.monotonic() < deadline, f"never came true: {condition}"
            self.page.wait_for_timeout(20)

    @property
    def overflow(self) -> int:
        """CSS pixels by which the page is wider than its window: what a reader would have to scroll sideways."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def screenshot(self, path: Path, selector: str | None = None) -> Path:
        """The whole page, or one element of it, as PNG."""
        if selector is None:
            self.page.screenshot(path=path, full_page=True)
        else:
            self.page.locator(selector).screenshot(path=path)
        return path


class Chromium:
    """Opens pages."""

    def __init__(self, browser: Browser):
        self._browser = browser

    @contextmanager
    def open(
        self,
        page: Path | str,
        size: tuple[int, int] = DESKTOP,
        scheme: Literal["light", "dark"] = "light",
        still: bool = False,
        sharp: int = 1,
    ) -> Iterator[Sheet]:
        """A page of its own, from a file on the disk, a URL, or HTML that begins with `<`.

        still: the reader asked for reduced motion. sharp: device pixels per CSS pixel.
        """
        motion: Literal["reduce", "no-preference"] = "reduce" if still else "no-preference"
        context = self._browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=scheme,
            reduced_motion=motion,
            device_scale_factor=sharp,
            has_touch=size[0] < 600,
        )
        try:
            sheet = Sheet(context.new_page())
            if isinstance(page, str) and page.lstrip().startswith("<"):
                sheet.page.set_content(page)
            else:
                sheet.page.goto(page.absolute().as_uri() if isinstance(page, Path) else page)
            yield sheet
        finally:
            context.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    """One Chromium for all tests of a module."""
    binary = next((found for name in NAMES if (found := shutil.which(name))), None)
    if binary is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    pytest.importorskip("playwright", reason="Playwright drives the browser: pip install 'dgbatch[dev]'")
    from playwright.sync_api import sync_playwright

    # Chromium's sandbox refuses root, and /dev/shm is small in a container
    flags = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=flags)
        yield Chromium(browser)
        browser.close()
