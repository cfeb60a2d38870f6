"""The page of step 03 in a real browser, at a gateway that wants a key."""

import pytest
from playwright.sync_api import Page, expect

from conftest import another_tab, database_in
from lab.launch import launch_pipeline, stop_all
from test_page import DIGITS, assert_answer, draw, luminance, send_sample, watched

KEY, OTHER = "correct-horse-battery", "staple-correct-horse"


@pytest.fixture(scope="module")
def key_file(tmp_path_factory):
    return tmp_path_factory.mktemp("key") / "api_key"


@pytest.fixture(scope="module")
def services(trained, tmp_path_factory, key_file):
    key_file.write_text(KEY)
    env = {
        "MODEL_DIR": str(trained("03_pipeline")),
        "MODEL_FORMAT": "onnx",  # starts in a third of the time
        "DATABASE_URL": database_in(tmp_path_factory.mktemp("page")),
        "API_KEY_FILE": str(key_file),
        "DRAIN_SECONDS": "0",
    }
    services = launch_pipeline(**env)
    yield services
    stop_all(*services.values())


@pytest.fixture
def gateway_url(services) -> str:
    return services["gateway"].url


@pytest.fixture
def tab(page: Page):
    """A tab that has kept nothing."""
    with another_tab(page, viewport={"width": 1300, "height": 950}) as tab:
        yield tab


@pytest.fixture
def opened(tab: Page, gateway_url: str):
    with watched(tab, gateway_url):
        yield tab


def enter(page: Page, key: str) -> None:
    page.get_by_label("Key", exact=True).fill(key)
    page.keyboard.press("Enter")


def assert_all_is_there(page: Page) -> None:
    expect(page.locator("#service-storage .state")).to_contain_text("ready")
    expect(page.locator("#history-note")).not_to_be_empty()
    expect(page.locator("#key")).to_be_hidden()


def test_the_page_asks_for_the_key_and_then_does_what_it_could_not_do(opened):
    expect(opened.get_by_role("heading", name="A key is needed")).to_be_visible()
    expect(opened.get_by_label("Key", exact=True)).to_be_focused()
    expect(opened.locator("#key-fault")).to_be_empty()
    expect(opened.get_by_role("link")).to_have_text(["manual"])  # the others lead to where the key is needed
    draw(opened, DIGITS[3])
    expect(opened.locator("#result")).to_have_attribute("aria-busy", "true")

    enter(opened, "wrong-horse-battery")
    expect(opened.get_by_role("alert").filter(has_text="does not take this key")).to_be_visible()
    expect(opened.get_by_label("Key", exact=True)).to_be_focused()
    expect(opened.get_by_label("Key", exact=True)).to_have_attribute("aria-invalid", "true")
    expect(opened.locator("#prediction")).to_be_empty()

    enter(opened, f" {KEY} ")  # as copied from somewhere
    assert_answer(opened, 3)
    assert_all_is_there(opened)
    expect(opened.locator("#results tbody tr").first.locator("td").nth(1)).to_have_text("3")


def test_the_key_lasts_as_long_as_the_tab(opened, gateway_url):
    enter(opened, KEY)
    assert_all_is_there(opened)
    with opened.expect_response(f"{gateway_url}/services") as services:
        opened.reload()
    assert services.value.status == 200
    draw(opened, DIGITS[7])
    assert_answer(opened, 7)
    assert_all_is_there(opened)

    another = opened.context.new_page()
    another.goto(gateway_url)
    expect(another.locator("#key")).to_be_visible()


def test_a_key_that_no_request_can_carry_is_wrong_too(opened):
    for key in ("schlüssel", "ключ-от-всех-дверей", "two words"):
        enter(opened, key)
        expect(opened.locator("#key-fault")).to_contain_text("does not take this key")
    enter(opened, KEY)
    assert_all_is_there(opened)


def test_when_the_key_changes_the_page_asks_for_the_new_one(opened, services, key_file):
    enter(opened, KEY)
    assert_all_is_there(opened)
    key_file.write_text(OTHER)
    try:
        services["gateway"].restart()
        send_sample(opened)
        expect(opened.locator("#key-fault")).to_contain_text("does not take this key")
        opened.reload()
        enter(opened, OTHER)
        assert_all_is_there(opened)
        send_sample(opened)
        assert_answer(opened, 3)
    finally:
        key_file.write_text(KEY)
        services["gateway"].restart()


def test_a_browser_that_forbids_storage_is_asked_again(tab, gateway_url):
    tab.add_init_script("Object.defineProperty(window, 'sessionStorage', { get() { throw new Error('forbidden'); } });")
    with watched(tab, gateway_url):
        for _ in range(2):
            enter(tab, KEY)
            assert_all_is_there(tab)
            tab.reload()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1300])
def test_the_question_for_the_key_fits_and_is_legible(opened, scheme, width):
    opened.emulate_media(color_scheme=scheme)
    opened.set_viewport_size({"width": width, "height": 900})
    enter(opened, "wrong-horse-battery")
    expect(opened.locator("#key-fault")).to_be_visible()
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    ground = luminance(opened, "#key-text", "backgroundColor")
    for property, contrast in {"color": 4.5, "borderColor": 3}.items():
        ink = luminance(opened, "#key-text", property)
        assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) >= contrast


def test_the_manual_takes_the_key(tab, gateway_url):
    tab.goto(f"{gateway_url}/docs")
    tab.get_by_role("button", name="Authorize").click()
    tab.locator(".auth-container input").fill(KEY)
    tab.locator(".auth-container").get_by_role("button", name="Apply credentials").click()
    tab.locator(".close-modal").click()
    tab.locator(".opblock", has_text="/services").locator(".opblock-summary-control").click()
    tab.get_by_role("button", name="Try it out").click()
    with tab.expect_response("**/services") as services:
        tab.get_by_role("button", name="Execute").click()
    assert services.value.status == 200
