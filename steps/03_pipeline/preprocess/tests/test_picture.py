"""Pictures of every kind are read to their ink."""

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageDraw
from samples import DARK, KINDS, MAX_PIXELS, TWO

from conftest import draw_two, encode
from picture import read_ink


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_any_kind_gives_its_ink(kind):
    ink = read_ink(KINDS[kind], MAX_PIXELS)
    assert (ink.shape, ink.dtype, ink.min(), ink.max()) == (TWO.shape, np.float32, 0, 1)
    assert np.abs(ink - TWO).mean() < 0.01
    assert ((ink > 0.5) == (TWO > 0.5)).mean() > 0.99


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
@pytest.mark.parametrize(
    ("orientation", "as_stored"),
    list(
        enumerate(
            [
                None,
                Image.Transpose.FLIP_LEFT_RIGHT,
                Image.Transpose.ROTATE_180,
                Image.Transpose.FLIP_TOP_BOTTOM,
                Image.Transpose.TRANSPOSE,
                Image.Transpose.ROTATE_90,  # what is to be turned clockwise to be upright
                Image.Transpose.TRANSVERSE,
                Image.Transpose.ROTATE_270,
            ],
            start=1,
        )
    ),
)
def test_a_camera_that_was_held_sideways_or_upside_down_makes_no_difference(orientation, as_stored, format):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    upright = DARK.crop((0, 0, 250, 220))
    stored = upright if as_stored is None else upright.transpose(as_stored)
    ink = read_ink(encode(stored, format, exif=exif), MAX_PIXELS)
    assert ink.shape == (220, 250)
    assert np.abs(ink - TWO[:220]).mean() < 0.01


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # pytest takes away the filter that picture.py sets
@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_notes_of_a_camera_that_make_no_sense_are_left_aside(exif):
    assert np.abs(read_ink(encode(DARK, "JPEG", exif=exif), MAX_PIXELS) - TWO).mean() < 0.01


@pytest.mark.parametrize("light_on_dark", [False, True])
@pytest.mark.parametrize("scale", [1, 9])
def test_a_small_picture_keeps_its_grey_levels_at_its_size_and_enlarged(scale, light_on_dark):
    two = draw_two(28, stroke=0.1)
    levels = np.uint8(255 * (two if light_on_dark else 1 - two))
    image = Image.fromarray(levels).resize((28 * scale, 28 * scale), Image.Resampling.BICUBIC)
    ink = read_ink(encode(image), MAX_PIXELS)
    soft = (two > 0.1) & (two < 0.9)
    assert soft.sum() > 50
    assert ink.shape == (28 * scale, 28 * scale)
    levels = ink if scale == 1 else ink.reshape(28, 9, 28, 9).mean(axis=(1, 3))
    assert np.abs(levels - two)[soft].mean() < (0.01 if scale == 1 else 0.05)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_line_as_thin_as_a_mouse_draws_it_is_full_ink(width):
    image = Image.new("L", (250, 250), 255)
    ImageDraw.Draw(image).line([(60, 40), (200, 130), (90, 240)], 0, width)
    assert np.array_equal(read_ink(encode(image), MAX_PIXELS), 1 - np.asarray(image) / 255)


@pytest.mark.parametrize("size", [(28, 28), (20, 90)])
@pytest.mark.parametrize("light_on_dark", [False, True])
def test_a_digit_may_touch_the_edge_of_the_picture(size, light_on_dark):
    two = draw_two(100, stroke=0.12)
    rows, columns = (two > 0).any(axis=1), (two > 0).any(axis=0)
    two = Image.fromarray(two[rows][:, columns]).resize(size, Image.Resampling.BOX)
    levels = np.uint8(255 * np.abs(np.asarray(two) - (not light_on_dark)))
    assert np.abs(read_ink(encode(levels), MAX_PIXELS) - two).mean() < 0.02


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16", "P", "JPEG"])
def test_a_large_picture_is_reduced(mode):
    image = DARK.resize((3000, 2000))
    if mode == "I;16":
        content = encode(257 * np.uint16(image))
    else:
        content = encode(image, "JPEG") if mode == "JPEG" else encode(image.convert(mode))
    ink = read_ink(content, MAX_PIXELS)
    assert 128 < max(ink.shape) <= 256
    assert ink.shape[1] / ink.shape[0] == pytest.approx(1.5, abs=0.01)
    expected = np.asarray(Image.fromarray(TWO).resize(ink.shape[::-1], Image.Resampling.BICUBIC))
    assert np.abs(ink - expected).mean() < 0.01


@pytest.mark.parametrize("size", [(1, 28), (28, 1), (3000, 1), (1, 3000), (1_000_000, 3), (3, 1_000_000)])
def test_a_picture_of_a_single_row_or_column_is_one(size):
    image = Image.new("L", size, 255)
    image.paste(0, (size[0] // 4, size[1] // 4, -(-size[0] // 2), -(-size[1] // 2)))
    ink = read_ink(encode(image), MAX_PIXELS)
    assert (1 in ink.shape, max(ink.shape) <= 256, ink.max()) == (True, True, 1)
    assert np.mean(ink == 1) == pytest.approx(0.25, abs=0.02)
