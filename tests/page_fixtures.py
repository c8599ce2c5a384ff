"""Fixtures of the playground's tests: a live server with the embedded model, and pages in a real headless Chromium."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.chromium import chromium
from tests.live import PATIENCE, Live, live
from tests.page import READY, Open


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live("llada-nano") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def complaints() -> list[str]:
    """What the browser's console has said; a test that provokes something takes it out."""
    return []


@pytest.fixture
def open_page(browser: Browser, server: Live, complaints: list[str]) -> Iterator[Open]:
    """A fresh page, ready; with reduced motion steps are shown as they come, without a pause."""
    contexts = []

    def open_page(reduced_motion: str = "reduce", url: str = server.url, says: str = READY, **options: Any) -> Page:
        context = browser.new_context(reduced_motion=reduced_motion, **options)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        expect(page.locator("#model")).to_contain_text(says)
        return page

    expect.set_options(timeout=PATIENCE * 1000)
    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def page(open_page: Open) -> Page:
    return open_page()
