"""Drawings of many kinds, recognized by the pipeline of step 03.

That a service which is killed takes only its own work along, and that preprocess is replaced under load, is shown in
notebooks/03_pipeline.ipynb, and in containers by step 04's tests.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
from PIL import Image, ImageOps

from conftest import database_in
from lab.drawings import draw, png
from lab.launch import launch_pipeline, stop_all


@pytest.fixture
def services(trained, tmp_path):
    model = {"MODEL_DIR": str(trained("03_pipeline")), "MODEL_FORMAT": "onnx"}  # starts in a third of the time
    services = launch_pipeline(**model, DATABASE_URL=database_in(tmp_path))
    yield services
    stop_all(*services.values())


def to_28(drawing: Image.Image) -> Image.Image:
    """A drawing as the classic sets have it: 28x28, light on dark, the digit in a box of 20x20, anti-aliased."""
    dark = ImageOps.invert(drawing.convert("L"))
    digit = dark.crop(dark.getbbox())
    digit.thumbnail((20, 20), Image.Resampling.BOX)
    picture = Image.new("L", (28, 28))
    picture.paste(digit, ((28 - digit.width) // 2, (28 - digit.height) // 2))
    return picture


FORMS = {
    "280x280, dark on light": lambda drawing: drawing,
    "28x28, light on dark": to_28,
    "28x28, dark on light": lambda drawing: ImageOps.invert(to_28(drawing)),
    "28x28 enlarged": lambda drawing: to_28(drawing).resize((280, 280), Image.Resampling.NEAREST),
}


def test_drawings_are_recognized_at_any_size_and_either_way_round(services):
    def recognize(picture: Image.Image) -> list[int]:
        url, headers = services["gateway"].url + "/inferir", {"Content-Type": "image/png"}
        return requests.post(url, data=png(picture), headers=headers, timeout=10).json()["prediction"]

    rng = np.random.default_rng(5)
    digits = list(range(10)) * 5
    drawings = [draw(digit, rng) for digit in digits]
    for form, change in FORMS.items():
        with ThreadPoolExecutor(4) as clients:
            predictions = [*clients.map(recognize, map(change, drawings))]
        right = np.mean([prediction == [digit] for prediction, digit in zip(predictions, digits, strict=True)])
        assert right >= 0.9, f"{form}: {right}"
