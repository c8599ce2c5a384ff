"""What a visitor of the playground sees: the comparison, and cells that rest, on every screen and for everybody."""

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.live import Live
from tests.page import (
    BOXES,
    LENGTH,
    OUTLINES,
    SUDOKU,
    TIMES,
    Open,
    asked,
    check,
    choose,
    example,
    figure,
    finish,
    headline,
    run,
    settings,
    shown,
    start,
)

pytest_plugins = ("tests.page_fixtures",)

SMALLEST = {"width": 320, "height": 640}
PHONE = {"width": 390, "height": 844}
LAPTOP = {"width": 1366, "height": 768}
TARGET = 44  # pixels that a finger hits
WIDTH = "document.documentElement.scrollWidth"
WATCH = """lane => { window.changes = 0; new MutationObserver((all) => { window.changes += all.length; })
  .observe(lane, { subtree: true, childList: true, characterData: true, attributes: true }); }"""

TOUCHED = """canvas => { window.touched = new Set(); new MutationObserver((all) => {
    for (const { target } of all) window.touched.add(target.closest(".cell"));
  }).observe(canvas, { subtree: true, childList: true, attributes: true, attributeFilter: ["class"] }); }"""


def inside(page: Page, *selectors: str) -> bool:
    """Whether all that is selected lies within the window as it is scrolled now."""
    height = page.evaluate("innerHeight")
    boxes = [box for selector in selectors for box in page.locator(selector).evaluate_all(BOXES)]
    return bool(boxes) and all(y >= 0 and y + tall <= height for _, y, _, tall in boxes)


def test_one_click_shows_the_difference(page: Page, server: Live) -> None:
    assert page.is_checked("#compare")
    example(page, "Word problem")
    answers = [asked(server, page.input_value("#prompt"), scheduler=name) for name in ("topk", "threshold")]
    most, fewest = (answer["diffusion"]["forward_passes"] for answer in answers)
    assert most > 5 * fewest
    times = f"{most / fewest:.1f}".removesuffix(".0") + TIMES
    a, b = page.locator(".lane").all()
    assert headline(a) == (str(most), f"{answers[0]['diffusion']['tokens_per_step']:.1f}", "")
    assert headline(b) == (str(fewest), f"{answers[1]['diffusion']['tokens_per_step']:.1f}", times)
    assert [lane.locator(".badge").is_visible() for lane in (a, b)] == [False, True]
    verdict = f"threshold took {times} fewer passes than topk. Both wrote the same text."
    assert page.locator("#verdict").inner_text() == verdict
    size = "one => parseFloat(getComputedStyle(one).fontSize)"
    assert a.locator(".passes b").evaluate(size) >= 48


def test_the_verdict_is_fair(page: Page) -> None:
    choose(page, "threshold", "threshold")
    example(page, "Sudoku")
    assert page.locator("#verdict").inner_text() == "Both took 2 passes. Both wrote the same text."
    assert page.locator(".fewest").count() == 0
    settings(page)
    page.fill("#option-1-threshold", "0")
    run(page)
    assert page.locator("#verdict").inner_text().startswith(f"B took 2{TIMES} fewer passes than A. ")
    page.fill("#prompt", "What is the capital of France?")
    run(page)
    assert page.locator("#verdict").inner_text() == "The model wrote no text. Try an example."
    assert "two tasks only" in page.locator("#note").inner_text()


def test_a_lane_that_is_done_rests(open_page: Open) -> None:
    page = open_page(reduced_motion="no-preference")
    start(page, "Word problem")
    slow, quick = page.locator(".lane").all()
    expect(quick.locator(".canvas.finished")).to_have_count(1)
    quick.evaluate(WATCH)
    before = int(headline(slow)[0])
    expect(slow.locator(".canvas .token")).not_to_have_count(slow.locator(".canvas .token").count())
    assert not slow.locator(".canvas.finished").count()
    assert page.evaluate("window.changes") == 0  # no flicker while the other goes on
    finish(page)
    assert int(headline(slow)[0]) > before


def test_a_lane_touches_only_the_cells_that_change(page: Page) -> None:
    example(page, "Word problem")
    page.locator("#scrubber").press("Home")
    page.locator(".lane .canvas").first.evaluate(TOUCHED)
    page.locator("#scrubber").press("ArrowRight")
    expect(page.locator("#position")).to_contain_text("1 of ")
    assert page.evaluate("window.touched.size") == 1
    page.locator("#scrubber").press("ArrowRight")
    expect(page.locator("#position")).to_contain_text("2 of ")
    assert page.evaluate("window.touched.size") == 2  # and what was new is new no more


@pytest.mark.parametrize("what", ["Word problem", "Sudoku"])
def test_cells_stay_where_they_are(open_page: Open, what: str) -> None:
    page = open_page(viewport=LAPTOP)
    example(page, what)
    cells = page.locator(".lane:visible .cell")
    after = cells.evaluate_all(BOXES)
    assert len({(round(width), round(height)) for *_, width, height in after}) == 1
    for key in ("Home", "ArrowRight", "ArrowRight", "End"):
        page.locator("#scrubber").press(key)
        assert cells.evaluate_all(BOXES) == after
    page.locator("#scrubber").press("Home")
    page.click("#run")
    assert cells.evaluate_all(BOXES) == after  # at the first moment of the next run
    finish(page)
    assert cells.evaluate_all(BOXES) == after


def test_the_result_is_above_the_fold(open_page: Open) -> None:
    page = open_page(viewport=LAPTOP)
    assert inside(page, "#run", "#verdict", ".headline", ".canvas")
    before = page.locator(".cell").evaluate_all(BOXES)
    example(page, "Word problem")
    assert page.locator(".cell").evaluate_all(BOXES) == before
    assert page.evaluate("scrollY") == 0
    assert inside(page, "#run", "#verdict", ".headline", ".canvas", "#legend", "#player")


def test_a_phone_shows_the_result_at_once(open_page: Open) -> None:
    page = open_page(viewport=PHONE, has_touch=True)
    start(page, "Word problem")
    assert inside(page, "#verdict", ".headline", ".canvas", "#player")
    finish(page)
    assert inside(page, "#verdict", ".headline", ".canvas", "#player")
    order = page.locator("#prompt, #results, #settings").evaluate_all(BOXES)
    assert [y for _, y, *_ in order] == sorted(y for _, y, *_ in order)


def test_fingers_can_hit_everything(open_page: Open) -> None:
    page = open_page(viewport=PHONE, has_touch=True, is_mobile=True)
    settings(page)
    example(page, "Fill gaps")
    targets = page.locator(
        "button, select, input:not([type=radio], [type=checkbox]), textarea, form label:has(input), a"
    )
    names = targets.evaluate_all("all => all.map((one) => one.checkVisibility() && (one.id || one.textContent))")
    heights = {name: tall for name, (*_, tall) in zip(names, targets.evaluate_all(BOXES), strict=True) if name}
    assert {"run", "scrubber", "gap", "mode", "Sudoku", "API"} <= heights.keys()
    assert {name: height for name, height in heights.items() if height < TARGET} == {}
    assert not page.locator(".keys").is_visible()  # there is no keyboard


def test_two_clocks_are_told_apart(page: Page) -> None:
    example(page, "Word problem")
    page.locator("#scrubber").press("Home")
    page.locator("#scrubber").press("ArrowRight")
    state = page.locator(".lane .state").first
    expect(state).to_have_text(re.compile(rf"^Done in {LENGTH} passes and [\d.]+ s\. Replay at pass 1\.$"))
    page.locator("#scrubber").press("End")
    expect(state).to_have_text(re.compile(rf"^Done in {LENGTH} passes and [\d.]+ s\.$"))


def test_a_cell_tells_what_it_holds(page: Page) -> None:
    example(page, "Word problem")
    lane = page.locator(".lane").first
    state = lane.locator(".state")
    lane.locator(".cell").first.hover()
    expect(state).to_have_text(re.compile(r'^Position 0: "4", pass \d+, confidence [01]\.\d{3}\.$'))
    page.mouse.move(0, 0)
    expect(state).to_contain_text("Done in ")
    lane.locator(".canvas").focus()
    for key, position in [("ArrowRight", 0), ("ArrowRight", 1), ("ArrowDown", 7), ("ArrowLeft", 6), ("ArrowUp", 0)]:
        page.keyboard.press(key)
        expect(state).to_contain_text(f"Position {position}: ")
    page.keyboard.press("Tab")
    expect(state).to_contain_text("Done in ")


def reload_as(page: Page, card: dict[str, Any]) -> None:
    """The page as it is for another model; answers are those of the one that is served."""
    page.route("**/v1/models", lambda route: route.fulfill(json={"data": [card]}))
    page.reload()
    expect(page.locator("#model")).to_have_text(f"Model: {card['id']}, context of {card['max_model_len']} tokens.")


def test_another_model_gets_other_examples_and_cells_that_fill_the_width(open_page: Open) -> None:
    page = open_page()
    card = {"id": "m", "root": "LLaDA", "max_model_len": 4096}
    reload_as(page, card)
    assert page.locator("#examples button").all_text_contents() == ["Question", "Code", "Fill gaps"]
    assert page.locator("#note").inner_text() == ""
    page.fill("#prompt", SUDOKU)
    run(page)
    answer = page.locator(".lane .answer").first
    expect(answer).to_be_visible()
    assert answer.inner_text().split() == shown(page.locator(".lane").first).split()
    canvas = page.locator(".canvas").first
    (left, _, wide, _), cells = canvas.evaluate_all(BOXES)[0], canvas.locator(".cell").evaluate_all(BOXES)
    assert max(x + width for x, _, width, _ in cells) == pytest.approx(left + wide, abs=1)


def test_a_model_with_a_scheduler_of_its_own_shows_it_beside_topk(open_page: Open) -> None:
    page = open_page()
    preset = {"name": "m", "licence": None, "defaults": {"scheduler": "policy:policy=block-32:speed=0.7"}}
    card = {"id": "m", "root": "llada-nano", "max_model_len": 512, "preset": preset}
    reload_as(page, card)
    a, b = page.locator(".lane").all()
    assert [lane.locator("select").input_value() for lane in (a, b)] == ["topk", "policy"]
    example(page, "Word problem")
    assert figure(b, "options") == "policy block-32, mode likely, temperature 1, speed 0.7"


def test_an_example_may_choose_the_scheduler_of_b(open_page: Open) -> None:
    page = open_page()
    card = {"id": "m", "root": "llada-micro", "max_model_len": 512}
    reload_as(page, card)
    a, b = page.locator(".lane").all()
    chosen = [lane.locator("select").input_value() for lane in (a, b)]
    assert chosen == ["topk", "threshold"]
    example(page, "One block")
    assert [lane.locator("select").input_value() for lane in (a, b)] == ["topk", "policy"]
    assert figure(b, "options").startswith("policy long-answers, ")


def test_keyboard_alone_is_enough(page: Page) -> None:
    settings(page)
    page.locator("h1").click()
    reached: list[str] = []
    for _ in range(50):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        if reached[-1] == "Metrics":
            break
        assert "solid" in page.evaluate(OUTLINES), f"{reached[-1]} shows no focus"
    assert reached[-1] == "Metrics"  # no trap on the way
    assert {"Sudoku", "prompt", "run", "option-0-n", "compare", "seed", "mode"} <= set(reached)
    page.get_by_role("button", name="Sudoku").focus()
    page.keyboard.press("Enter")
    finish(page)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.value") == SUDOKU
    page.keyboard.press("Control+Enter")
    finish(page)
    assert re.sub(r"\s", "", shown(page.locator(".lane").first)) == "642513513264165342234156356421421635"


def test_one_live_region_tells_the_finished_text(open_page: Open) -> None:
    page = open_page(reduced_motion="no-preference")
    live_regions = "#results :is([aria-live], [role=status], [role=alert], output)"
    page.click("#run")
    expect(page.locator(".lane .fresh").first).to_be_visible()
    assert page.locator(live_regions).evaluate_all("all => all.map((one) => one.id)") == ["announcement"]
    finish(page)
    assert page.locator("#announcement").inner_text().endswith("#### 7")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(open_page: Open, complaints: list[str], scheme: str) -> None:
    """Names, roles, contrast of 4.5:1, and whatever else axe-core knows, in every state of the page."""
    page = open_page(color_scheme=scheme)
    check(page)
    settings(page)
    choose(page, "topk", "random")
    for colour, what in (("confidence", "Fill gaps"), ("step", "Word problem")):
        page.check(f"[name=colour][value={colour}]", force=True)
        example(page, what)
        page.locator(".lane summary").first.click()
        check(page)
    page.fill("#option-1-n", "0")
    page.click("#run")
    expect(page.locator("#scheduler-error-1")).not_to_be_empty()
    check(page)
    complaints.clear()


@pytest.mark.parametrize("width", [320, 390, 768, 1024, 1200, 1366, 1920])
def test_nothing_is_wider_than_the_window(open_page: Open, complaints: list[str], width: int) -> None:
    page = open_page(viewport={"width": width, "height": 800})
    assert page.evaluate(WIDTH) == width
    settings(page)
    page.fill("#prompt", "word" * 100)
    choose(page, "policy", "threshold")
    run(page)
    example(page, "Fill gaps")
    page.locator(".lane summary").first.click()
    assert page.evaluate(WIDTH) == width
    for inner in page.locator(".lane > *:visible, .headline > *:visible").all():  # a lane hides nothing of its own
        lane = inner.locator("xpath=ancestor::article").evaluate_all(BOXES)[0]
        box = inner.evaluate_all(BOXES)[0]
        assert lane[0] <= box[0] <= box[0] + box[2] <= lane[0] + lane[2]
    page.fill("#option-1-threshold", "long" * 30)
    page.click("#run")
    expect(page.locator("#scheduler-error-1")).not_to_be_empty()
    assert page.evaluate(WIDTH) == width
    complaints.clear()
