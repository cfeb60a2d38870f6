"""The page of step 03 in a real browser: digits drawn with the mouse, services killed meanwhile."""

import json
import math
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from conftest import STEPS, database_in
from launch import launch, launch_pipeline, stop_all

SAMPLE = STEPS / "03_pipeline" / "sample_drawing.png"


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
        "DATABASE_URL": database_in(tmp_path_factory.mktemp("page")),
    }
    services = launch_pipeline(**env)
    services["storage"].env = env
    yield services
    stop_all(*services.values())


@pytest.fixture
def opened(services, page: Page):
    """The page, freshly loaded. Whatever it asks of another host, or fails at, fails the test."""
    door, elsewhere, errors = services["gateway"].url, [], []

    def remember(request):
        if not request.url.startswith((door, "data:", "blob:")):
            elsewhere.append(request.url)

    def complain(error):
        errors.append(error)

    page.on("request", remember)
    page.on("pageerror", complain)
    page.goto(door)
    yield page
    page.remove_listener("request", remember)
    page.remove_listener("pageerror", complain)
    assert elsewhere == [] and errors == []


def draw(page: Page, strokes: list[list[tuple[float, float]]]) -> None:
    page.locator("#clear").click()
    box = page.locator("#canvas").bounding_box()
    for stroke in strokes:
        points = [(box["x"] + x * box["width"] / 280, box["y"] + y * box["height"] / 280) for x, y in stroke]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point, steps=3)
        page.mouse.up()


def assert_answer(page: Page, digit: int) -> None:
    expect(page.locator("#answer")).to_contain_text(re.compile(rf"^\s*{digit}\b"), timeout=10_000)


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


def test_a_file_is_recognized_and_a_broken_one_gets_the_services_own_sentence(opened, tmp_path):
    opened.locator("#file").set_input_files(SAMPLE)
    assert_answer(opened, 3)
    broken = tmp_path / "broken.png"
    broken.write_bytes(SAMPLE.read_bytes()[:200])
    opened.locator("#file").set_input_files(broken)
    expect(opened.locator("#fault")).not_to_be_empty()


def test_a_digit_is_drawn_with_the_keyboard(opened):
    canvas = opened.locator("#canvas")
    canvas.focus()
    for key in ["ArrowUp"] * 8 + ["Space"] + ["ArrowDown"] * 16 + ["Space"]:
        canvas.press(key)
    assert_answer(opened, 1)


def test_the_page_says_which_service_is_gone_and_what_still_works(opened, services):
    expect(opened.locator("#service-storage .state")).to_contain_text("ready")
    services["storage"].process().kill()
    expect(opened.locator("#outage")).to_contain_text("storage", timeout=10_000)
    expect(opened.locator("#outage")).to_contain_text("recognized but not kept")
    expect(opened.locator("#service-storage .state")).to_contain_text("not ready")
    draw(opened, DIGITS[3])
    assert_answer(opened, 3)
    expect(opened.locator("#facts")).to_contain_text("storage cannot be reached")
    expect(opened.locator("#history-fault")).to_contain_text("storage cannot be reached")

    old = services["storage"]
    old.stop()
    services["storage"] = launch("03_pipeline/storage", env=old.env, port=old.port)
    services["storage"].env = old.env
    expect(opened.locator("#outage")).to_be_empty(timeout=10_000)
    draw(opened, DIGITS[0])
    assert_answer(opened, 0)
    expect(opened.locator("#facts")).to_contain_text("yes")
    expect(opened.locator("#results tbody tr").first.locator("td, th").nth(1)).to_have_text("0")


def test_without_preprocess_a_sample_row_is_still_recognized(opened, services, trained):
    services["preprocess"].process().suspend()
    try:
        expect(opened.locator("#outage")).to_contain_text("Pictures cannot be read", timeout=10_000)
        opened.locator("#sample").click()
        assert_answer(opened, 3)
        draw(opened, DIGITS[3])
        expect(opened.locator("#fault")).to_contain_text("preprocess has not answered", timeout=10_000)
    finally:
        services["preprocess"].process().resume()
    expect(opened.locator("#outage")).to_be_empty(timeout=10_000)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1300])
def test_the_page_fits_a_phone_and_a_desk(opened, scheme, width):
    opened.emulate_media(color_scheme=scheme)
    opened.set_viewport_size({"width": width, "height": 900})
    draw(opened, DIGITS[7])
    assert_answer(opened, 7)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width


def test_what_the_page_asks_for_is_in_its_folder():
    """No build step, no asset from elsewhere: every address in the page's files is one of the gateway's."""
    static = STEPS / "03_pipeline" / "gateway" / "static"
    texts = "".join(path.read_text(encoding="utf-8") for path in Path(static).iterdir())
    addresses = re.findall(r"https?://[^\s\"'`)]+", texts)
    assert [address for address in addresses if not address.startswith("http://www.w3.org/")] == []
    assert json.loads((STEPS / "03_pipeline" / "sample_request.json").read_text())["features"]
