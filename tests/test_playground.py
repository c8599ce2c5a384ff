"""The playground in a real headless Chromium, against a live server with the embedded model.

`make test` installs Chromium where it may. Where there is none these tests fail, and say what to install: a skipped
test would look like a page that works.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from schedulers import json_schema, scheduler_class, scheduler_names
from server.playground import PARTS
from tests.browser import (
    BACKGROUNDS,
    NUMBERS,
    OUTLINES,
    PLACES,
    asked,
    check,
    chromium,
    figure,
    finish,
    run,
    shown,
)
from tests.live import PATIENCE, Live, live, wait_for

PHONE = {"width": 360, "height": 640}
SUDOKU = "Sudoku\n _ _ 2 5 1 _\n _ _ _ 2 6 4\n 1 6 5 3 4 _\n _ _ 4 1 _ 6\n _ _ 6 _ 2 _\n _ 2 1 _ 3 5"
READY = "Served here: llada-nano, which sees 512 tokens."
KEY = "open sésame"
CLEAR = "rgba(0, 0, 0, 0)"
MARKUP = "<img src=x onerror=alert(1)>"

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live("llada-nano") as running:
        yield running


@pytest.fixture(scope="module")
def guarded() -> Iterator[Live]:
    """A server that wants a key."""
    with live("llada-nano", api_key=(KEY,)) as running:
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


def test_page_is_served_with_a_policy(server: Live) -> None:
    for path in ("/", *(f"/static/{part}" for part in PARTS)):
        response = server.http.get(path)
        assert response.status_code == 200
        assert "default-src 'none'; script-src 'self'; style-src 'self';" in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//|url\("?http|@import""", response.text)  # offline
    assert server.http.get("/static/..%2fplayground.py").status_code == 404


def test_tokens_appear_in_place_and_end_as_the_answer(open_page: Open, server: Live) -> None:
    page = open_page(reduced_motion="no-preference")
    prompt = page.input_value("#prompt")
    page.click("#run")
    expect(page.locator(".canvas .fresh")).to_have_count(1)  # topk's one token a step
    assert 0 < page.locator(".canvas .mask").count() < 64
    finish(page)
    answer = asked(server, prompt, max_tokens=64, block_length=64, scheduler="topk")
    lane = page.locator(".lane")
    assert shown(lane) == answer["text"]
    assert figure(lane, "forward passes") == str(answer["diffusion"]["forward_passes"])
    assert figure(lane, "tokens a pass") == f"{answer['diffusion']['tokens_per_step']:.1f}"
    assert page.locator(".canvas .mask").count() == 0


def test_raw_text_is_sent_as_it_is(page: Page, server: Live) -> None:
    page.check("[name=mode][value=prompt]", force=True)
    page.fill("#prompt", f"{SUDOKU}\n\n")
    with page.expect_request("**/generate") as sent:
        run(page)
    body = sent.value.post_data_json or {}
    assert (body["prompt"], "messages" in body) == (f"{SUDOKU}\n\n", False)
    raw = server.generate(prompt=f"{SUDOKU}\n\n", max_tokens=64, block_length=64, scheduler="topk", seed=0)
    assert shown(page.locator(".lane")) == raw["text"]


def test_two_schedulers_side_by_side(page: Page, server: Live) -> None:
    page.click("[data-example=sudoku]")
    page.check("#compare")
    page.locator(".chooser select").nth(1).select_option("random")
    page.fill("#option-1-n", "4")
    run(page)
    specs: list[dict[str, Any]] = [{"name": "topk"}, {"name": "random", "n": 4}]
    for lane, scheduler in zip(page.locator(".lane").all(), specs, strict=True):
        answer = asked(server, SUDOKU, max_tokens=48, block_length=48, scheduler=scheduler)
        assert lane.locator("h2").inner_text() == scheduler["name"]
        assert shown(lane) == answer["text"]
        assert figure(lane, "forward passes") == str(answer["diffusion"]["forward_passes"])
    page.uncheck("#compare")
    assert page.locator(".chooser:visible").count() == 1


def test_gaps_are_filled_where_they_are(page: Page, server: Live) -> None:
    page.click("[data-example=gaps]")
    canvas, prompt = page.input_value("#canvas"), page.input_value("#prompt")
    run(page)
    answer = asked(server, prompt, canvas=canvas, scheduler="topk", block_length=64)
    assert shown(page.locator(".lane")) == answer["canvas"]
    assert "9 + 6 = 15" in answer["canvas"]
    pinned = page.locator(".canvas .pinned")
    assert "".join(pinned.all_text_contents()) == re.sub(r"\[MASK(:\d+)?\]", "", canvas)
    assert CLEAR not in pinned.evaluate_all(BACKGROUNDS)
    assert set(pinned.evaluate_all(BACKGROUNDS)) == set(page.locator("#given .pinned").evaluate_all(BACKGROUNDS))
    assert page.locator("#given").is_visible()
    assert page.locator("#announcement").inner_text().startswith("topk finished: 1 + 8 = 9")


def test_a_selection_becomes_a_gap_of_its_length(page: Page) -> None:
    page.check("[name=mode][value=canvas]", force=True)
    page.fill("#canvas", "1 + 8 = 9\n9 + 6 = 15")
    page.evaluate("document.getElementById('canvas').setSelectionRange(10, 20)")
    page.click("#gap")
    expect(page.locator("#canvas")).to_have_value("1 + 8 = 9\n[MASK:5]")
    page.evaluate("document.getElementById('canvas').setSelectionRange(8, 9)")  # a digit, whose token holds the space
    page.click("#gap")
    expect(page.locator("#canvas")).to_have_value("1 + 8 =[MASK]\n[MASK:5]")


def test_scrubber_replays_the_steps(page: Page, server: Live) -> None:
    page.locator(".chooser select").first.select_option("threshold")
    run(page)
    body = {"messages": [{"role": "user", "content": page.input_value("#prompt")}], "scheduler": "threshold", "seed": 0}
    steps = [data for name, data in server.events(**body, max_tokens=64, block_length=64) if name == "step"]
    scrubber, masks = page.locator("#scrubber"), page.locator(".canvas .mask")
    assert scrubber.get_attribute("max") == str(len(steps))
    scrubber.press("Home")
    assert (masks.count(), page.locator(".canvas .token:not(.pinned)").count()) == (64, 0)
    left = set(range(64))
    for k, step in enumerate(steps, 1):
        scrubber.press("ArrowRight")
        left -= {position for position, *_ in step["revealed"]}
        assert masks.evaluate_all(PLACES) == sorted(left)
        assert scrubber.get_attribute("aria-valuetext") == f"step {k} of {len(steps)}"
    scrubber.press("Home")
    page.click("#play")
    expect(masks).to_have_count(0)


@pytest.mark.parametrize("colour", ["confidence", "step"])
def test_a_colour_says_what_is_also_written(page: Page, colour: str) -> None:
    page.check(f"[name=colour][value={colour}]", force=True)
    page.locator(".chooser select").first.select_option("random")
    page.fill("#option-0-n", "8")
    run(page)
    tokens = page.locator(".canvas .token")
    titles = [one for one in tokens.evaluate_all("all => all.map((one) => one.title)") if one != "given"]
    steps, confidences = zip(*(re.findall(r"[\d.]+", title) for title in titles), strict=True)
    page.locator("summary").click()
    rows = [row.locator("td").all_inner_texts() for row in page.locator("tbody tr").all()]
    assert [tuple(row[2:]) for row in rows][: len(titles)] == list(zip(steps, confidences, strict=True))
    if colour == "confidence":
        said = ["sure" if float(c) >= 0.9 else "likely" if float(c) >= 0.6 else "unsure" for c in confidences]
    else:
        said = list(steps)
        for k, (attribute, text) in zip(steps, tokens.evaluate_all(NUMBERS)[1:], strict=False):
            assert attribute == k
            assert f'"{k}"' in text or "attr(data-step)" in text  # as older browsers say it
    colours = dict(zip(said, tokens.evaluate_all(BACKGROUNDS)[1:], strict=False))
    assert len({*colours.values(), CLEAR}) == len(colours) + 1 > 3
    for name in colours.keys() & {"sure", "likely", "unsure"}:
        assert page.locator(f".legend .{name}").evaluate_all(BACKGROUNDS) == [colours[name]]
    assert page.locator(f".legend .for-{colour}").first.is_visible()


def test_every_option_is_drawn_from_its_schema(page: Page) -> None:
    chooser = page.locator(".chooser:visible")
    for name in scheduler_names():
        chooser.locator("select").first.select_option(name)
        inputs = chooser.locator(".options [name]").all()
        assert [one.get_attribute("name") for one in inputs] == list(
            json_schema(scheduler_class(name).Options)["properties"]
        )
    chooser.locator("select").first.select_option("policy")
    page.fill("#option-0-policy", "full-diffusion")
    page.select_option("#option-0-mode", "bernoulli")
    page.fill("#option-0-speed", "0.8")
    run(page)
    options = "policy full-diffusion, mode bernoulli, temperature 1, speed 0.8"
    assert options in figure(page.locator(".lane"), "options")


@pytest.mark.parametrize(
    ("field", "value", "place"),
    [
        ("#option-1-threshold", "7", "#scheduler-error-1"),
        ("#option-1-threshold", "high", "#scheduler-error-1"),
        ("#max_tokens", "many", "#numbers-error"),
        ("#max_tokens", "9999", "#numbers-error"),
    ],
)
def test_an_error_stands_beside_its_cause(
    page: Page, complaints: list[str], field: str, value: str, place: str
) -> None:
    page.check("#compare")
    page.fill(field, value)
    page.click("#run")
    expect(page.locator(place)).to_contain_text(re.compile(f"must be .*not '?{value}|{value} make"))
    assert page.locator("[aria-invalid=true]").evaluate_all("all => all.map((one) => one.id)") == [field[1:]]
    assert place[1:] in (page.locator(field).get_attribute("aria-describedby") or "")
    expect(page.locator("#stop")).to_be_disabled()
    page.fill(field, "")
    run(page)
    assert page.locator(".error:visible").count() == 0
    assert all("status of 400" in complaint for complaint in complaints)
    complaints.clear()


def test_an_empty_canvas_is_explained(page: Page, complaints: list[str]) -> None:
    page.check("[name=mode][value=canvas]", force=True)
    page.click("#run")
    expect(page.locator("#canvas-error")).to_have_text("field 'canvas' holds no mask; write [MASK] for each")
    complaints.clear()


def test_a_server_that_wants_a_key_is_usable_with_it(
    open_page: Open, complaints: list[str], guarded: Live, server: Live
) -> None:
    page = open_page(url=guarded.url, says="this server wants an API key")
    key, error = page.locator("#key"), page.locator("#key-error")
    expect(page.locator("#run")).to_be_disabled()
    expect(error).to_be_hidden()  # nothing has gone wrong yet
    key.fill("wrong")
    key.press("Enter")
    expect(error).to_contain_text("the API key is none of this server's")
    assert key.get_attribute("aria-invalid") == "true"
    check(page)
    key.fill(KEY)
    key.press("Tab")
    expect(page.locator("#model")).to_have_text(READY)
    expect(error).to_be_hidden()
    run(page)
    answer = asked(server, page.input_value("#prompt"), max_tokens=64, block_length=64, scheduler="topk")
    assert shown(page.locator(".lane")) == answer["text"]
    key.fill("changed")
    page.locator("#prompt").press("Control+Enter")
    expect(error).to_contain_text("the API key is none of this server's")
    assert all("status of 401" in complaint for complaint in complaints)
    complaints.clear()


def test_stop_frees_the_row(page: Page, server: Live) -> None:
    page.fill("#max_tokens", "440")
    page.fill("#block_length", "440")
    page.click("#run")
    expect(page.locator(".canvas .mask")).not_to_have_count(0)
    passes = server.metric("unmask_forward_passes_total", scheduler="topk")
    wait_for(lambda: server.metric("unmask_num_requests_running") == 1)
    page.keyboard.press("Escape")
    expect(page.locator(".lane .state")).to_have_text("stopped by you")
    wait_for(lambda: server.metric("unmask_num_requests_running") == 0)
    assert server.metric("unmask_forward_passes_total", scheduler="topk") < passes + 440  # it was not left to end
    assert page.locator(".canvas .mask").count() > 0
    assert page.locator("#announcement").inner_text() == ""


def test_a_conversation_goes_on(page: Page) -> None:
    run(page)
    page.click("#reply")
    assert page.evaluate("document.activeElement.id") == "prompt"
    page.fill("#prompt", SUDOKU)
    with page.expect_request("**/generate") as sent:
        run(page)
    messages = (sent.value.post_data_json or {})["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    page.click("#forget")
    assert not page.locator("#history").is_visible()


def test_texts_are_never_markup(page: Page) -> None:
    page.check("[name=mode][value=canvas]", force=True)
    page.fill("#canvas", f"{MARKUP}[MASK] <b>bold</b> [MASK:2]{MARKUP}")
    run(page)
    assert shown(page.locator(".lane")).count(MARKUP) == 2
    assert page.locator("main img, .lane b").count() == 0


def test_keyboard_alone_is_enough(page: Page) -> None:
    reached: list[str] = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        if reached[-1] == "Metrics":
            break
        assert "solid" in page.evaluate(OUTLINES), f"{reached[-1]} shows no focus"
    assert reached[-1] == "Metrics"  # no trap on the way
    assert {"prompt", "run", "option-0-n", "compare", "seed"} <= set(reached)
    page.locator("[data-example=sudoku]").focus()
    page.keyboard.press("Enter")
    page.locator("[name=mode]:checked").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.value") == SUDOKU
    page.keyboard.press("Control+Enter")
    finish(page)
    assert re.sub(r"\s", "", shown(page.locator(".lane"))) == "642513513264165342234156356421421635"


def test_one_live_region_tells_the_finished_text(open_page: Open) -> None:
    page = open_page(reduced_motion="no-preference")
    live_regions = "#results :is([aria-live], [role=status], [role=alert], output)"
    page.click("#run")
    expect(page.locator(".canvas .fresh")).to_have_count(1)
    assert page.locator(live_regions).evaluate_all("all => all.map((one) => one.id)") == ["announcement"]
    finish(page)
    assert page.locator("#announcement").inner_text().endswith("#### 7")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(open_page: Open, complaints: list[str], scheme: str) -> None:
    """Names, roles, contrast of 4.5:1, and whatever else axe-core knows, in every state of the page."""
    page = open_page(color_scheme=scheme)
    check(page)
    page.click("[data-example=gaps]")
    page.check("#compare")
    page.locator(".chooser select").nth(1).select_option("random")
    for colour in ("confidence", "step"):
        page.check(f"[name=colour][value={colour}]", force=True)
        run(page)
        page.locator("summary").first.click()
        check(page)
    page.fill("#option-1-n", "0")
    page.click("#run")
    expect(page.locator("#scheduler-error-1")).not_to_be_empty()
    check(page)
    complaints.clear()


def test_fits_a_phone(open_page: Open, complaints: list[str]) -> None:
    page = open_page(viewport=PHONE)
    width = "document.documentElement.scrollWidth"
    assert page.evaluate(width) == PHONE["width"]
    page.click("[data-example=gaps]")
    page.fill("#prompt", "word" * 100)
    page.check("#compare")
    page.locator(".chooser select").first.select_option("policy")
    page.fill("#option-0-policy", "full-diffusion")
    run(page)
    page.locator("summary").first.click()
    assert page.evaluate(width) == PHONE["width"]
    page.fill("#option-0-policy", "long" * 30)
    page.click("#run")
    expect(page.locator("#scheduler-error-0")).not_to_be_empty()
    assert page.evaluate(width) == PHONE["width"]
    complaints.clear()
