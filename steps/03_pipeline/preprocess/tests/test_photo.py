"""Photos of paper give ink without shadow or noise; blank pictures are found."""

import io

import numpy as np
import pytest
from PIL import Image
from samples import MAX_PIXELS

from conftest import draw_two, encode, photograph
from picture import Blank, read_ink

PHOTOS = {
    "pen": {"contrast": 0.7},
    "faint pencil": {"contrast": 0.2},
    "light from the side": {"tilt": 0.9, "contrast": 0.4},
    "soft light, no noise": {"tilt": 0.2, "noise": 0.5, "quality": 90},
    "shadow": {"shadow": 0.4},
    "shadow, faint pencil": {"shadow": 0.25, "contrast": 0.25},
    "noise": {"noise": 12},
    "poor JPEG": {"quality": 30},
}


@pytest.mark.parametrize("stroke", [0.012, 0.03, 0.08], ids=["pencil", "pen", "marker"])
@pytest.mark.parametrize("conditions", PHOTOS)
def test_a_photo_of_paper_gives_the_ink_and_neither_shadow_nor_noise(conditions, stroke):
    for seed in range(3):
        frame = np.zeros((768, 1024), dtype=np.float32)
        top, left = 20 + 90 * seed, 60 + 130 * seed
        frame[top : top + 520, left : left + 520] = draw_two(520, stroke)
        ink = read_ink(photograph(frame, seed, **PHOTOS[conditions]), MAX_PIXELS)
        true = np.asarray(Image.fromarray(frame).resize(ink.shape[::-1], Image.Resampling.BOX))
        assert overlap(ink, true) > 0.9, seed


def overlap(ink: np.ndarray, true: np.ndarray) -> float:
    """F1 score of the inked pixels, with two pixels of tolerance."""

    def near(inked):
        wide = np.pad(inked, 2)
        height, width = inked.shape
        return np.any([wide[y : y + height, x : x + width] for y in range(5) for x in range(5)], axis=0)

    found, wanted = ink > 0.5, true > 0.4
    precision = (found & near(wanted)).sum() / max(found.sum(), 1)
    recall = (wanted & near(found)).sum() / wanted.sum()
    return 2 * precision * recall / max(precision + recall, 1e-9)


@pytest.mark.parametrize("tilt", [0.1, 0.8])
@pytest.mark.parametrize("noise", [1, 4, 12])
def test_a_photo_of_empty_paper_is_blank(noise, tilt):
    for seed in range(3):
        with pytest.raises(Blank):
            read_ink(photograph(np.zeros((600, 800)), seed, noise=noise, tilt=tilt), MAX_PIXELS)


def test_chalk_on_a_blackboard_is_ink():
    frame = np.zeros((600, 800), dtype=np.float32)
    frame[40:540, 150:650] = draw_two(500, 0.02)
    photo = Image.open(io.BytesIO(photograph(1 - frame, 1, contrast=0.85)))
    ink = read_ink(encode(photo, "JPEG"), MAX_PIXELS)
    true = np.asarray(Image.fromarray(frame).resize(ink.shape[::-1], Image.Resampling.BOX))
    assert overlap(ink, true) > 0.9


@pytest.mark.parametrize(
    "image",
    [
        Image.new("L", (28, 28), 255),
        Image.new("1", (1, 1)),
        Image.new("RGB", (280, 280), (200, 30, 30)),
        Image.new("RGBA", (280, 280)),
        Image.new("LA", (280, 280), (255, 128)),
        np.full((100, 100), 40_000, dtype=np.uint16),
        np.uint8(np.random.default_rng(1).normal(128, 2, (28, 28))),
        np.uint8(np.random.default_rng(2).normal(128, 40, (280, 280)).clip(0, 255)),
        np.uint8(np.random.default_rng(3).normal(255, 9, (280, 280)).clip(0, 255)),
    ],
    ids=["white", "a pixel", "colour", "transparent", "in parts", "16 bits", "noise", "more noise", "noise on white"],
)
def test_a_picture_with_nothing_on_it_is_blank(image):
    with pytest.raises(Blank, match="^the picture is blank: "):
        read_ink(encode(image), MAX_PIXELS)
