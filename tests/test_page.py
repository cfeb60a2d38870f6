"""The page of step 03 in a real browser: digits drawn and dropped on it, services killed meanwhile."""

import base64
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from playwright.sync_api import Frame, JSHandle, Page, expect

from conftest import PATIENCE_MS, STEPS, another_tab, database_in, wait_until
from lab.launch import launch_pipeline, stop_all

SAMPLE = STEPS / "03_pipeline" / "sample_drawing.png"
UNREADABLE = "the body is not a PNG or JPEG that can be read: is the file whole?"  # as preprocess says it


def arc(x: float, y: float, radius: float, begin: float, end: float) -> list[tuple[float, float]]:
    """Points on a circle, the angles in degrees, clockwise from the right."""
    angles = [math.radians(begin + (end - begin) * step / 12) for step in range(13)]
    return [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]


# Strokes on a canvas of 280x280.
DIGITS = {
    3: [arc(135, 95, 45, -160, 90) + arc(135, 185, 45, -90, 160)],
    0: [arc(140, 140, 70, -90, 275)],
    1: [[(140, 50), (140, 140), (140, 230)]],
    7: [[(80, 60), (140, 60), (200, 60), (160, 140), (120, 230)]],
}


@pytest.fixture(scope="module")
def services(trained, tmp_path_factory):
    env = {
        "MODEL_DIR": str(trained("03_pipeline")),
        "MODEL_FORMAT": "onnx",  # starts in a third of the time
        "DATABASE_URL": database_in(tmp_path_factory.mktemp("page")),
    }
    services = launch_pipeline(**env)
    yield services
    stop_all(*services.values())


@pytest.fixture
def opened(services, page: Page):
    """The page, freshly loaded and watched."""
    with watched(page, services["gateway"].url):
        yield page


@contextmanager
def watched(page: Page, gateway_url: str) -> Iterator[None]:
    """Load the page. A request to another host, an error, or a breach of its policy fails the test."""
    elsewhere, errors = [], []

    def remember(request):
        if not request.url.startswith((gateway_url, "data:", "blob:")):
            elsewhere.append(request.url)

    def complain(error):
        errors.append(error)

    def read(message):
        if message.type == "error" and "Content Security Policy" in message.text:
            errors.append(message.text)

    listeners = {"request": remember, "pageerror": complain, "console": read}
    for event, listener in listeners.items():
        page.on(event, listener)
    page.goto(gateway_url)
    # Not by `wait_for_function`: it evaluates again from within the page, whose policy refuses that.
    painted = "performance.getEntriesByName('first-contentful-paint').length"
    wait_until(lambda: page.evaluate(painted), PATIENCE_MS / 1000)
    yield
    page.unroute_all(behavior="wait")  # a handler may still be at work
    for event, listener in listeners.items():
        page.remove_listener(event, listener)
    assert elsewhere == [] and errors == []


def draw(page: Page | Frame, strokes: list[list[tuple[float, float]]], add: Callable | None = None) -> None:
    """Draw, by mouse or as `add` does. Draw again if the browser has lost it: on a busy machine, Chromium may do so."""
    noticed = page.locator("#result[aria-busy=true], #result:not(:has-text('Nothing is drawn yet'))")
    for _ in range(3):
        page.locator("#clear").click()
        page.locator("#canvas").click(trial=True)  # wait until it stands still
        (add or draw_more)(page, strokes)
        with suppress(AssertionError):
            return expect(noticed).to_be_attached(timeout=PATIENCE_MS / 4)
    raise AssertionError("the page has noticed none of three drawings")


def draw_more(page: Page | Frame, strokes: list[list[tuple[float, float]]]) -> None:
    mouse = (page.page if isinstance(page, Frame) else page).mouse
    for stroke in strokes:
        points = on_screen(page, stroke)
        mouse.move(*points[0])
        mouse.down()
        for point in points[1:]:
            mouse.move(*point, steps=3)
        mouse.up()


def send_sample(page: Page) -> None:
    """Press the button by keyboard: the page has to work without a pointer, too."""
    page.locator("#sample").press("Enter")


def on_screen(page: Page | Frame, stroke: list[tuple[float, float]]) -> list[tuple[float, float]]:
    box = page.locator("#canvas").bounding_box()
    return [(box["x"] + x * box["width"] / 280, box["y"] + y * box["height"] / 280) for x, y in stroke]


def in_hand(page: Page, path: Path) -> JSHandle:
    """A file as the browser hands it over when it is dropped or pasted."""
    return page.evaluate_handle(
        """([name, base64]) => {
            const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], name, { type: "image/png" }));
            return data;
        }""",
        [path.name, base64.b64encode(path.read_bytes()).decode()],
    )


def assert_answer(page: Page | Frame, digit: int) -> None:
    # The whole section, so that a test that fails shows the sentence of the fault.
    expect(page.locator("#result")).to_contain_text(re.compile(rf"^\s*Answer\s+{digit}\b"))


@pytest.mark.parametrize("digit", DIGITS)
def test_a_drawn_digit_is_recognized_explained_and_in_the_history(opened, digit):
    draw(opened, DIGITS[digit])
    assert_answer(opened, digit)
    expect(opened.locator("#probabilities tbody tr")).to_have_count(10)
    expect(opened.locator("#grid td")).to_have_count(64)
    ink = [int(text) for text in opened.locator("#grid td").all_inner_texts()]
    assert 0 == min(ink) < max(ink) <= 16
    for service in ("gateway", "preprocess", "inference", "storage"):
        expect(opened.locator("#waterfall")).to_contain_text(service)
    expect(opened.locator("#facts")).to_contain_text("yes")
    expect(opened.locator("#results tbody tr").first.locator("td, th").nth(1)).to_have_text(str(digit))


def test_a_page_that_needs_no_key_asks_for_none_and_sends_none(opened):
    with opened.expect_request("**/results?*") as request:
        opened.reload()
    assert "authorization" not in request.value.all_headers()
    expect(opened.locator("#service-gateway .state")).to_contain_text("ready")
    expect(opened.locator("#key")).to_be_hidden()
    expect(opened.get_by_role("link")).to_have_text(["manual", "services", "results", "metrics"])


def test_a_digit_is_drawn_with_a_finger(services, page):
    size = {"width": 360, "height": 800}
    with another_tab(page, has_touch=True, viewport=size) as phone, watched(phone, services["gateway"].url):
        phone.locator("#canvas").scroll_into_view_if_needed()
        scrolled = phone.evaluate("scrollY")
        touch = phone.context.new_cdp_session(phone)

        def with_a_finger(page: Page, strokes: list[list[tuple[float, float]]]) -> None:
            for stroke in strokes:
                for number, (x, y) in enumerate(on_screen(page, stroke)):
                    event = {"type": "touchMove" if number else "touchStart", "touchPoints": [{"x": x, "y": y}]}
                    touch.send("Input.dispatchTouchEvent", event)
                touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

        draw(phone, DIGITS[3], with_a_finger)
        assert_answer(phone, 3)
        assert phone.evaluate("scrollY") == scrolled


def test_a_chosen_file_is_recognized(opened):
    opened.locator("#file").set_input_files(SAMPLE)
    assert_answer(opened, 3)


def test_a_dropped_picture_is_recognized_and_the_page_stays(opened):
    stays = in_hand(opened, SAMPLE).evaluate(
        """(dataTransfer) => {
            const drop = new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true });
            document.body.dispatchEvent(drop);
            return drop.defaultPrevented;
        }"""
    )
    assert stays
    assert_answer(opened, 3)


def test_a_pasted_picture_is_recognized(opened):
    in_hand(opened, SAMPLE).evaluate(
        """(clipboardData) =>
            document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }))"""
    )
    assert_answer(opened, 3)


@pytest.mark.parametrize("name", ["broken.png", "notes.txt", "nameless"])
def test_an_unreadable_file_gets_the_sentence_of_preprocess(opened, tmp_path, name):
    broken = tmp_path / name
    broken.write_bytes(SAMPLE.read_bytes()[:200] if name == "broken.png" else b"Draw a three.")
    opened.locator("#file").set_input_files(broken)
    expect(opened.locator("#fault")).to_have_text(UNREADABLE)


def test_a_stroke_begun_while_a_file_is_read_wins(opened):
    opened.evaluate(
        """() => {
            const read = createImageBitmap;
            const release = new Promise((resolve) => (window.release = resolve));
            window.createImageBitmap = (file) => (window.bitmap = release.then(() => read(file)));
        }"""
    )
    opened.locator("#file").set_input_files(SAMPLE)
    draw_more(opened, DIGITS[0])
    opened.evaluate("() => (release(), bitmap.then(() => null))")
    with opened.expect_response("**/inferir"):
        opened.locator("#recognize").click()
    assert_answer(opened, 0)


def test_a_digit_is_drawn_with_the_keyboard(opened):
    canvas = opened.locator("#canvas")
    canvas.focus()
    for key in ["ArrowUp"] * 8 + ["Space"] + ["ArrowDown"] * 16 + ["Space"]:
        canvas.press(key)
    assert_answer(opened, 1)


@pytest.mark.parametrize("width", [360, 1300])
def test_the_page_says_which_service_is_gone_and_what_still_works(opened, services, width):
    opened.set_viewport_size({"width": width, "height": 900})
    expect(opened.locator("#service-storage .state")).to_contain_text("ready")
    place = opened.locator("#canvas").bounding_box()
    services["storage"].kill()
    expect(opened.locator("#outage")).to_contain_text("storage")
    expect(opened.locator("#outage")).to_contain_text("recognized but not kept")
    expect(opened.locator("#service-storage .state")).to_contain_text("not ready")
    assert opened.locator("#canvas").bounding_box() == place  # it does not move away from the pointer
    draw(opened, DIGITS[3])
    assert_answer(opened, 3)
    expect(opened.locator("#facts")).to_contain_text("storage cannot be reached")
    expect(opened.locator("#history-fault")).to_contain_text("storage cannot be reached")

    services["storage"].restart()
    expect(opened.locator("#outage")).to_be_empty()
    draw(opened, DIGITS[0])
    assert_answer(opened, 0)
    expect(opened.locator("#facts")).to_contain_text("yes")
    expect(opened.locator("#results tbody tr").first.locator("td, th").nth(1)).to_have_text("0")


def test_without_preprocess_a_sample_row_is_still_recognized(opened, services):
    services["preprocess"].process().suspend()
    try:
        expect(opened.locator("#outage")).to_contain_text("Pictures cannot be read")
        send_sample(opened)
        assert_answer(opened, 3)
        draw(opened, DIGITS[3])
        expect(opened.locator("#fault")).to_contain_text("preprocess has not answered")
    finally:
        services["preprocess"].process().resume()
    expect(opened.locator("#outage")).to_be_empty()


def test_a_filter_that_cannot_be_loaded_shows_no_rows_of_the_old_one(opened):
    send_sample(opened)
    expect(opened.locator("#facts")).to_contain_text("yes")
    expect(opened.locator("#results tbody tr")).not_to_have_count(0)
    opened.route("**/results?*", lambda route: route.abort())
    opened.locator("#filter label").filter(has_text=re.compile("^7")).click()
    expect(opened.locator("#history-fault")).to_contain_text("History is not available")
    expect(opened.locator("#results tbody tr")).to_have_count(0)
    expect(opened.locator("#older")).to_be_disabled()


def test_older_results_and_new_ones_are_loaded_side_by_side(opened):
    row = [0, 8, 16, 8] * 16
    stored = opened.request.post(f"{opened.url}inferir", data={"features": [row] * 25})
    assert stored.json()["stored"], stored.text()
    opened.reload()
    rows, held = opened.locator("#results tbody tr"), []
    expect(rows).to_have_count(10)
    opened.route("**/results?*before=*", lambda route: held.append(route))
    with opened.expect_request("**/results?*before=*"):
        opened.locator("#older").click()
    send_sample(opened)  # its answer makes the page look for what is new
    expect(rows).to_have_count(11)
    held.pop().continue_()
    expect(rows).to_have_count(21)


def test_a_browser_without_the_newest_functions_can_use_the_page(services, page):
    with another_tab(page) as older:
        older.add_init_script("delete AbortSignal.any; delete AbortSignal.timeout; delete Promise.withResolvers;")
        with watched(older, services["gateway"].url):
            expect(older.locator("#service-gateway .state")).to_contain_text("ready")
            send_sample(older)
            assert_answer(older, 3)
            expect(older.locator("#history-fault")).to_be_empty()


def test_a_prediction_may_be_text_without_probabilities(opened):
    def answer_with_text(route):
        reply = route.fetch()
        content = {name: value for name, value in reply.json().items() if name != "probabilities"}
        route.fulfill(response=reply, json={**content, "prediction": ["setosa"]})

    def list_text(route):
        reply = route.fetch()
        results = [{**result, "prediction": "setosa", "probabilities": None} for result in reply.json()["results"]]
        route.fulfill(response=reply, json={"results": results, "next": None})

    counts = {"total": 2, "by_prediction": {"setosa": 2}, "by_model_version": {"b5e7a46e61b8": 2}}
    opened.route("**/inferir", answer_with_text)
    opened.route("**/results?*", list_text)
    opened.route("**/results/summary", lambda route: route.fulfill(json=counts))
    send_sample(opened)
    expect(opened.locator("#answer")).to_contain_text("setosa")
    expect(opened.locator("#results tbody tr").first.locator("td").nth(1)).to_have_text("setosa")
    expect(opened.locator("#filter label").filter(has_text="setosa")).to_contain_text("2")
    with opened.expect_request("**/results?*prediction=setosa*"):
        opened.locator("#filter label").filter(has_text="setosa").click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1300])
def test_the_page_fits_a_phone_and_a_desk(opened, scheme, width):
    opened.emulate_media(color_scheme=scheme)
    opened.set_viewport_size({"width": width, "height": 900})
    draw(opened, DIGITS[7])
    assert_answer(opened, 7)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [360, 1300])
def test_a_certain_answer_takes_one_line(opened, width):
    opened.set_viewport_size({"width": width, "height": 900})

    def be_certain(route):
        reply = route.fetch()
        shares = [float(digit == 3) for digit in range(10)]
        route.fulfill(response=reply, json={**reply.json(), "prediction": [3], "probabilities": [shares]})

    opened.route("**/inferir", be_certain)
    send_sample(opened)
    expect(opened.locator("#certainty")).to_have_text("100.0 %")
    certain, other = (opened.locator(f"#probabilities tr{kind}").last for kind in (".top", ":not(.top)"))
    assert certain.bounding_box()["height"] == other.bounding_box()["height"]
    assert opened.locator("#certainty").bounding_box()["height"] < 40  # px, of 20 px letters


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_as_light_or_dark_as_the_system_and_legible(opened, scheme):
    opened.emulate_media(color_scheme=scheme)
    text = luminance(opened, "body", "color")
    for place in ("body", "#draw"):
        ground = luminance(opened, place, "backgroundColor")
        assert ground > 0.8 if scheme == "light" else ground < 0.05
        assert (max(text, ground) + 0.05) / (min(text, ground) + 0.05) >= 4.5


def luminance(page: Page, selector: str, property: str) -> float:
    """The relative luminance of an opaque computed colour, 0..1 (WCAG 2.2)."""
    color = page.locator(selector).evaluate("(element, property) => getComputedStyle(element)[property]", property)
    assert re.fullmatch(r"rgb\(\d+, \d+, \d+\)", color)
    shares = [int(level) / 255 for level in re.findall(r"\d+", color)]
    red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
