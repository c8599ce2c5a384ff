"""What the playground does, in a real headless Chromium, against a live server with the embedded model."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.live import Live, live, wait_for
from tests.page import (
    BACKGROUNDS,
    LENGTH,
    NONE_YET,
    PLACES,
    READY,
    SUDOKU,
    Open,
    asked,
    check,
    choose,
    example,
    figure,
    headline,
    run,
    settings,
    shown,
    start,
)
from unmask.schedulers import json_schema, scheduler_class, scheduler_names
from unmask.server.routes.playground import PARTS
from unmask.weights import HERE

pytest_plugins = ("tests.page_fixtures",)

KEY = "open sésame"
CLEAR = "rgba(0, 0, 0, 0)"
MARKUP = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Live]:
    """A server that wants a key."""
    with live("llada-nano", api_key=(KEY,)) as running:
        yield running


def test_page_is_served_with_a_policy(server: Live) -> None:
    assert {"playground.css", "playground.js"} < set(PARTS)
    for path in ("/", *(f"/static/{part}" for part in PARTS)):
        response = server.http.get(path)
        assert response.status_code == 200
        assert "default-src 'none'; script-src 'self'; style-src 'self';" in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//|url\("?http|@import""", response.text)  # offline
        assert "innerHTML" not in response.text
    for name in ("..%2fplayground.py", "index.html"):
        assert server.http.get(f"/static/{name}").status_code == 404


def test_tokens_appear_in_place_and_end_as_the_answer(open_page: Open, server: Live) -> None:
    page = open_page(reduced_motion="no-preference")
    prompt = page.input_value("#prompt")
    choose(page, "topk")
    page.click("#run")
    lane = page.locator(".lane:visible")
    expect(lane.locator(".canvas .fresh")).to_have_count(1)  # topk's one token per pass
    assert 0 < lane.locator(".canvas .mask").count() < LENGTH
    expect(page.locator("#verdict")).to_have_text(f"topk took {LENGTH} passes.")
    answer = asked(server, prompt, scheduler="topk")
    assert shown(lane) == answer["text"]
    rate = f"{answer['diffusion']['tokens_per_step']:.1f}"
    assert headline(lane) == (str(answer["diffusion"]["forward_passes"]), rate, "")
    assert lane.locator(".canvas .mask").count() == 0


def test_raw_text_is_sent_as_it_is(page: Page, server: Live) -> None:
    choose(page, "topk")
    settings(page)
    page.select_option("#mode", "prompt")
    page.fill("#prompt", f"{SUDOKU}\n\n")
    with page.expect_request("**/generate") as sent:
        run(page)
    body = sent.value.post_data_json or {}
    assert (body["prompt"], "messages" in body) == (f"{SUDOKU}\n\n", False)
    raw = server.generate(prompt=f"{SUDOKU}\n\n", max_tokens=LENGTH, block_length=LENGTH, scheduler="topk", seed=0)
    assert shown(page.locator(".lane:visible")) == raw["text"]


def test_two_schedulers_answer_one_prompt(page: Page, server: Live) -> None:
    choose(page, "topk", "random")
    settings(page)
    page.fill("#option-1-n", "4")
    example(page, "Sudoku")
    specs: list[dict[str, Any]] = [{"name": "topk"}, {"name": "random", "n": 4}]
    for lane, scheduler in zip(page.locator(".lane").all(), specs, strict=True):
        answer = asked(server, SUDOKU, scheduler=scheduler)
        assert shown(lane) == answer["text"]
        assert headline(lane)[0] == str(answer["diffusion"]["forward_passes"])
    assert figure(page.locator(".lane").nth(1), "options") == "n 4"
    page.uncheck("#compare")
    assert page.locator(".chooser:visible").count() == page.locator(".lane:visible").count() == 1


def test_gaps_are_filled_where_they_are(page: Page, server: Live) -> None:
    choose(page, "topk")
    example(page, "Fill gaps")
    canvas, prompt = page.input_value("#canvas"), page.input_value("#prompt")
    answer = asked(server, prompt, canvas=canvas, scheduler="topk")
    lane = page.locator(".lane:visible")
    assert shown(lane).replace("\n\n", "\n") == answer["canvas"]
    assert answer["canvas"] == "4 + 9 = 13\n13 - 6 = 7\n7 + 8 = 15\n15 - 7 = 8\n#### 8"
    pinned = lane.locator(".canvas .pinned")
    assert "".join(pinned.all_text_contents()) == "\n7 + 8 =\n"
    assert CLEAR not in pinned.evaluate_all(BACKGROUNDS)
    assert set(pinned.evaluate_all(BACKGROUNDS)) == set(page.locator("#given .pinned").evaluate_all(BACKGROUNDS))
    assert page.locator("#given").is_visible()
    assert page.locator("#announcement").inner_text().startswith("topk finished: 4 + 9 = 13")


def test_a_selection_becomes_a_gap_of_its_length(page: Page) -> None:
    settings(page)
    page.select_option("#mode", "canvas")
    page.fill("#canvas", "1 + 8 = 9\n9 + 6 = 15")
    page.evaluate("document.getElementById('canvas').setSelectionRange(10, 20)")
    page.click("#gap")
    expect(page.locator("#canvas")).to_have_value("1 + 8 = 9\n[MASK:5]")
    page.evaluate("document.getElementById('canvas').setSelectionRange(8, 9)")  # a digit, whose token holds the space
    page.click("#gap")
    expect(page.locator("#canvas")).to_have_value("1 + 8 =[MASK]\n[MASK:5]")


def test_scrubber_replays_the_steps(page: Page, server: Live) -> None:
    choose(page, "threshold")
    run(page)
    body = {"messages": [{"role": "user", "content": page.input_value("#prompt")}], "scheduler": "threshold", "seed": 0}
    events = server.events(**body, max_tokens=LENGTH, block_length=LENGTH)
    steps = [data for name, data in events if name == "step"]
    lane, scrubber = page.locator(".lane:visible"), page.locator("#scrubber")
    masks = lane.locator(".canvas .mask")
    assert scrubber.get_attribute("max") == str(len(steps)) != "1"
    scrubber.press("Home")
    assert (masks.count(), lane.locator(".canvas .token").count()) == (LENGTH, 0)
    left = set(range(LENGTH))
    for k, step in enumerate(steps, 1):
        scrubber.press("ArrowRight")
        left -= {position for position, *_ in step["revealed"]}
        assert masks.evaluate_all(PLACES) == sorted(left)
        assert scrubber.get_attribute("aria-valuetext") == f"pass {k} of {len(steps)}"
        assert headline(lane)[0] == str(k)
    scrubber.press("Home")
    page.click("#play")
    expect(masks).to_have_count(0)


@pytest.mark.parametrize("colour", ["confidence", "step"])
def test_a_colour_says_what_is_also_written(page: Page, colour: str) -> None:
    page.check(f"[name=colour][value={colour}]", force=True)
    choose(page, "random")
    settings(page)
    page.fill("#option-0-n", "8")
    run(page)
    lane = page.locator(".lane:visible")
    tokens = lane.locator(".canvas .token")
    lane.locator("summary").click()
    rows = [row.locator("td").all_inner_texts() for row in lane.locator("tbody tr").all()]
    written = {int(position): (step, float(confidence)) for position, _, step, confidence in rows}
    steps, confidences = zip(*(written[place] for place in tokens.evaluate_all(PLACES)), strict=True)
    assert tokens.evaluate_all("all => all.map((one) => one.dataset.step)") == list(steps)
    if colour == "confidence":
        said = ["sure" if c >= 0.9 else "likely" if c >= 0.6 else "unsure" for c in confidences]
    else:
        said = list(steps)
        assert "attr(data-step)" in tokens.first.evaluate("one => getComputedStyle(one, '::after').content") or (
            f'"{steps[0]}"' in tokens.first.evaluate("one => getComputedStyle(one, '::after').content")
        )
    colours = dict(zip(said, tokens.evaluate_all(BACKGROUNDS), strict=True))
    assert len({*colours.values(), CLEAR}) == len(colours) + 1 > 3
    for name in colours.keys() & {"sure", "likely", "unsure"}:
        assert page.locator(f"#legend .{name}").evaluate_all(BACKGROUNDS) == [colours[name]]
    other = {"confidence": "step", "step": "confidence"}[colour]
    assert page.locator(f"#legend .for-{colour}").first.is_visible()
    assert not page.locator(f"#legend .for-{other}").first.is_visible()


def test_every_option_is_drawn_from_its_schema(page: Page) -> None:
    settings(page)
    for name in scheduler_names():
        choose(page, name)
        inputs = page.locator(".chooser:visible .options [name]").all()
        schema = json_schema(scheduler_class(name).Options)["properties"]
        assert [one.get_attribute("name") for one in inputs] == list(schema)
        for one, option in zip(inputs, schema.values(), strict=True):  # what is shown is what holds
            default = "" if option["default"] is None else str(option["default"]).removesuffix(".0")
            assert one.input_value().strip('"') == default
    choose(page, "policy")
    page.select_option("#option-0-policy", label="full-diffusion")
    page.select_option("#option-0-mode", label="bernoulli")
    page.fill("#option-0-speed", "0.8")
    run(page)
    options = "policy full-diffusion, mode bernoulli, temperature 1, speed 0.8"
    assert options in figure(page.locator(".lane:visible"), "options")


def test_policies_are_chosen_from_those_that_are_shipped(page: Page, complaints: list[str]) -> None:
    choose(page, "policy")
    settings(page)
    *shipped, another = page.locator("#option-0-policy option").all_text_contents()
    assert shipped == sorted(folder.name for folder in (HERE / "policies").iterdir() if folder.is_dir())
    page.select_option("#option-0-policy", label=another)
    page.fill("#option-0-policy", "/nowhere")  # the select box has become a text field
    page.click("#run")
    expect(page.locator("#scheduler-error-0")).to_contain_text("option 'policy' may not be '/nowhere'")
    assert page.locator("[aria-invalid=true]").evaluate_all("all => all.map((one) => one.id)") == ["option-0-policy"]
    complaints.clear()


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
    settings(page)
    page.fill(field, value)
    settings(page)  # folded again: an error unfolds them
    page.click("#run")
    expect(page.locator(place)).to_contain_text(re.compile(f"must be .*not '?{value}|{value} make"))
    expect(page.locator(place)).to_be_visible()
    assert page.locator("[aria-invalid=true]").evaluate_all("all => all.map((one) => one.id)") == [field[1:]]
    assert place[1:] in (page.locator(field).get_attribute("aria-describedby") or "")
    expect(page.locator("#stop")).to_be_disabled()
    assert page.locator("#verdict").inner_text() == "That did not work."
    page.fill(field, "")
    run(page)
    assert page.locator(".error:visible").count() == 0
    assert all("status of 400" in complaint for complaint in complaints)
    complaints.clear()


def test_an_example_takes_an_error_away(page: Page, complaints: list[str]) -> None:
    settings(page)
    page.fill("#max_tokens", "9999")
    page.click("#run")
    expect(page.locator("#numbers-error")).not_to_be_empty()
    example(page, "Sudoku")
    assert page.locator(".error:visible, [aria-invalid=true]").count() == 0
    assert page.input_value("#max_tokens") == str(LENGTH)
    complaints.clear()


def test_an_empty_canvas_is_explained(page: Page, complaints: list[str]) -> None:
    settings(page)
    page.select_option("#mode", "canvas")
    page.click("#run")
    expect(page.locator("#canvas-error")).to_have_text("field 'canvas' holds no mask; write [MASK] for each")
    page.wait_for_load_state("networkidle")  # each lane's request is refused, and complained of
    complaints.clear()


def test_a_server_that_wants_a_key_is_usable_with_it(
    open_page: Open, complaints: list[str], guarded: Live, server: Live
) -> None:
    page = open_page(url=guarded.url, says="this server needs an API key")
    key, error = page.locator("#key"), page.locator("#key-error")
    expect(page.locator("#run")).to_be_disabled()
    expect(error).to_be_hidden()  # nothing has gone wrong yet
    key.fill("wrong")
    key.press("Enter")
    expect(error).to_contain_text("the API key is unknown")
    assert key.get_attribute("aria-invalid") == "true"
    check(page)
    key.fill(KEY)
    key.press("Tab")
    expect(page.locator("#model")).to_have_text(READY)
    expect(error).to_be_hidden()
    run(page)
    answer = asked(server, page.input_value("#prompt"), scheduler="topk")
    assert shown(page.locator(".lane").first) == answer["text"]
    key.fill("changed")
    page.locator("#prompt").press("Control+Enter")
    expect(error).to_contain_text("the API key is unknown")
    page.wait_for_load_state("networkidle")  # both lanes were refused, and the browser says so of each
    assert all("status of 401" in complaint for complaint in complaints)
    complaints.clear()


def test_stop_frees_the_row(page: Page, server: Live) -> None:
    choose(page, "topk")
    settings(page)
    page.fill("#max_tokens", "440")
    page.fill("#block_length", "440")
    page.click("#run")
    lane = page.locator(".lane:visible")
    expect(lane.locator(".state")).to_contain_text("Running: ")
    passes = server.metric("unmask_forward_passes_total", scheduler="topk")
    wait_for(lambda: server.metric("unmask_num_requests_running") == 1)
    page.keyboard.press("Escape")
    expect(lane.locator(".state")).to_contain_text("Stopped by you after ")
    wait_for(lambda: server.metric("unmask_num_requests_running") == 0)
    assert server.metric("unmask_forward_passes_total", scheduler="topk") < passes + 440  # it was not left to end
    assert lane.locator(".canvas .mask").count() > 0
    assert page.locator("#announcement").inner_text() == ""
    assert page.locator("#verdict").inner_text() == "Stopped."


def test_a_choice_amid_a_run_empties_the_lanes(page: Page, server: Live) -> None:
    settings(page)
    page.fill("#max_tokens", "440")
    page.fill("#block_length", "440")
    page.click("#run")
    expect(page.locator(".lane .state").first).to_contain_text("Running: ")
    page.locator(".lane select").first.select_option("random")
    wait_for(lambda: server.metric("unmask_num_requests_running") == 0)
    lane = page.locator(".lane").first
    assert (headline(lane)[0], lane.locator(".state").inner_text()) == (NONE_YET, "")
    assert lane.locator(".canvas .mask").count() == lane.locator(".cell").count() == 440
    expect(page.locator("#stop")).to_be_disabled()
    start(page, "Sudoku")
    start(page, "Word problem")  # takes the place of the other, whose steps must not be mixed in
    expect(page.locator("#verdict")).to_contain_text("fewer passes")
    assert shown(page.locator(".lane").nth(1)).endswith("#### 7")


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
    choose(page, "topk")
    settings(page)
    page.select_option("#mode", "canvas")
    page.fill("#canvas", f"{MARKUP}[MASK] <b>bold</b> [MASK:2]{MARKUP}")
    run(page)
    assert shown(page.locator(".lane:visible")).count(MARKUP) == 2
    assert page.locator("main img, .canvas b").count() == 0
