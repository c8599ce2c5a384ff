"""`/docs` in a real headless Chromium that reaches this server and nothing else."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.chromium import chromium
from tests.live import PATIENCE, Live, live
from tests.synthetic import synthetic_llada

HOST = "unmask.test"  # Swagger UI behaves otherwise on localhost


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(synthetic_llada(tmp_path_factory.mktemp("model") / "tiny")) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE * 1000)
    with chromium(f"--host-resolver-rules=MAP {HOST} 127.0.0.1, MAP * ~NOTFOUND") as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page whose console must stay empty, and whose requests must all be to HOST."""
    complaints: list[str] = []
    asked: set[str | None] = set()
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.add(urlsplit(request.url).hostname))
    yield page
    context.close()
    assert (complaints, asked - {HOST, None}) == ([], set())


def address(server: Live) -> str:
    return f"http://{HOST}:{urlsplit(server.url).port}/docs"


def test_every_operation_is_shown(page: Page, server: Live) -> None:
    page.goto(address(server))
    operations = page.locator(".opblock-summary")
    paths = server.http.get("/openapi.json").json()["paths"]
    expected = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    expect(operations).to_have_count(len(expected))
    shown = {" ".join(one.inner_text().split()[:2]).replace("\u200b", "") for one in operations.all()}
    assert shown == expected  # where a long path may be broken, there is a space of no width


def test_an_operation_can_be_tried(page: Page, server: Live) -> None:
    page.goto(address(server))
    version = page.locator(".opblock", has=page.get_by_text("/version", exact=True))
    version.locator(".opblock-summary").click()
    version.get_by_role("button", name="Try it out").click()
    version.get_by_role("button", name="Execute").click()
    expect(version.locator(".live-responses-table .response .response-col_description")).to_contain_text(
        server.http.get("/version").json()["version"]
    )


def test_there_is_no_other_page_and_no_other_file(server: Live) -> None:
    for path in ("/redoc", "/docs/static/", "/docs/static/nothing.js", "/docs/static/..%2fcore.py"):
        response = server.http.get(path)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
