"""A real headless Chromium, and how the playground's tests use and read the page."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.live import Live

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]

# Asked of the page.
OUTLINES = """() => [document.activeElement, document.activeElement.nextElementSibling]
  .map((one) => one && getComputedStyle(one).outlineStyle)"""  # a hidden radio button shows its focus on its name
BACKGROUNDS = "all => all.map((one) => getComputedStyle(one).backgroundColor)"
NUMBERS = "all => all.map((one) => [one.dataset.step, getComputedStyle(one, '::after').content])"
PLACES = "all => all.map((one) => [...one.parentNode.children].indexOf(one) - 1)"  # the first child is what is given


@contextmanager
def chromium() -> Iterator[Browser]:
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.fail("no Chromium found: install it (Debian: apt-get install chromium), or give its path in CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


def run(page: Page) -> None:
    page.click("#run")
    finish(page)


def finish(page: Page) -> None:
    expect(page.locator("#stop")).to_be_disabled()
    assert page.locator("#announcement").inner_text(), page.locator("#results").inner_text()
    expect(page.locator("#play")).to_have_text("Play")


def shown(lane: Locator) -> str:
    """The text on a canvas: what is given and what is revealed, without masks and ends of text."""
    return "".join(lane.locator(".canvas .token").all_text_contents())


def figure(lane: Locator, name: str) -> str:
    return lane.locator("dl div", has=lane.page.get_by_text(name, exact=True)).locator("dd").inner_text()


def asked(live: Live, content: str, **fields: Any) -> dict[str, Any]:
    """What the API answers to a chat of the page's."""
    body = {"messages": [{"role": "user", "content": content}], "temperature": 0, "seed": 0, **fields}
    return live.generate(**body)


def check(page: Page) -> None:
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
