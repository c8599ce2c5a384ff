"""How the playground's tests use and read its page."""

from collections.abc import Callable
from typing import Any

from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Locator, Page, expect

from tests.live import Live

Open = Callable[..., Page]

READY = "Model: llada-nano, context of 512 tokens."
SUDOKU = "Sudoku\n _ _ 2 5 1 _\n _ _ _ 2 6 4\n 1 6 5 3 4 _\n _ _ 4 1 _ 6\n _ _ 6 _ 2 _\n _ 2 1 _ 3 5"
LENGTH = 42  # of the examples' canvases
TIMES, NONE_YET = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"

# Asked of the page.
OUTLINES = """() => [document.activeElement, document.activeElement.nextElementSibling]
  .map((one) => one && getComputedStyle(one).outlineStyle)"""  # a hidden radio button shows its focus on its name
BACKGROUNDS = "all => all.map((one) => getComputedStyle(one).backgroundColor)"
PLACES = "all => all.map((one) => [...one.parentNode.children].indexOf(one))"
BOXES = "all => all.map((one) => { const b = one.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; })"


def start(page: Page, example: str) -> None:
    """Start an example by its one click."""
    page.get_by_role("button", name=example, exact=True).click()


def example(page: Page, example: str) -> None:
    start(page, example)
    finish(page)


def run(page: Page) -> None:
    page.click("#run")
    finish(page)


def finish(page: Page) -> None:
    expect(page.locator("#stop")).to_be_disabled()
    assert page.locator("#announcement").inner_text(), page.locator("#results").inner_text()
    expect(page.locator("#play")).to_have_text("Play")


def settings(page: Page) -> None:
    """Unfold the settings."""
    page.click("#settings > summary")


def choose(page: Page, *schedulers: str) -> None:
    """Choose the scheduler of each lane; one lane for one scheduler."""
    page.set_checked("#compare", len(schedulers) > 1)
    for lane, scheduler in zip(page.locator(".lane:visible").all(), schedulers, strict=True):
        lane.locator("select").select_option(scheduler)


def shown(lane: Locator) -> str:
    """The text on a canvas, without masks and ends of text, and the lines around it."""
    inside = "".join(lane.locator(".canvas .token").all_text_contents())
    around = [lane.locator(f".{name}").text_content() or "" for name in ("before", "after")]
    return "\n".join(filter(None, [around[0], inside, around[1]]))


def headline(lane: Locator) -> tuple[str, str, str]:
    """The large figures of a lane: passes, tokens per pass, times fewer."""
    passes, rate, badge = lane.locator(".headline b").all_text_contents()
    return passes, rate, badge


def figure(lane: Locator, name: str) -> str:
    """One of the folded figures."""
    return lane.locator("dl div", has=lane.page.get_by_text(name, exact=True)).locator("dd").text_content() or ""


def asked(live: Live, content: str, **fields: Any) -> dict[str, Any]:
    """What the API answers to a chat of the page's."""
    length = {} if "canvas" in fields else {"max_tokens": LENGTH}
    body = {"messages": [{"role": "user", "content": content}], "temperature": 0, "seed": 0, "block_length": LENGTH}
    return live.generate(**body, **length, **fields)


def check(page: Page) -> None:
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
