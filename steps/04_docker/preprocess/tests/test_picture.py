"""Pictures of every kind, and what is left of them: ink."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageDraw

import picture
from conftest import chunk, draw_two, encode, photograph, png_that_claims
from picture import Blank, Broken, TooLarge, read_ink

MAX_PIXELS = 16_000_000
TWO = draw_two(280)
DARK = Image.fromarray(np.uint8(255 * (1 - TWO)))  # on light
LIGHT = Image.fromarray(np.uint8(255 * TWO))


def in_colour(pen: tuple, paper: tuple) -> Image.Image:
    return Image.composite(Image.new("RGB", DARK.size, pen), Image.new("RGB", DARK.size, paper), LIGHT)


def on_transparent(mode: str, pen: int | tuple) -> Image.Image:
    image = Image.new(mode, DARK.size, pen)
    image.putalpha(LIGHT)
    return image


def on_a_sheet_with_a_transparent_margin() -> Image.Image:
    image = Image.new("RGBA", DARK.size)
    image.paste(DARK.convert("RGB").crop((20, 20, 260, 260)), (20, 20))
    return image


def palette(levels: int) -> Image.Image:
    """A picture of some greys by number, of which 0 is the paper."""
    image = Image.fromarray(np.uint8(np.rint(TWO * (levels - 1)))).convert("P")
    image.putpalette([255 - round(255 * level / (levels - 1)) for level in range(levels) for _ in range(3)])
    return image


def sixteen_bits(most: int) -> np.ndarray:
    return np.uint16(np.rint(most * (1 - TWO)))


KINDS = {
    "grey": encode(DARK),
    "grey, light on dark": encode(LIGHT),
    "colour": encode(in_colour((20, 30, 160), (250, 245, 220))),
    "colour, light on dark": encode(in_colour((255, 220, 0), (0, 60, 20))),
    "two colours that are nearly as light": encode(in_colour((120, 120, 120), (150, 150, 150))),
    "palette": encode(palette(32)),
    "palette of four colours": encode(palette(4)),
    "palette, the paper is transparent": encode(palette(32), transparency=0),
    "palette, more and less transparent": encode(palette(32), transparency=bytes(range(0, 256, 8))),
    "black on transparent": encode(on_transparent("RGBA", (0, 0, 0))),
    "white on transparent": encode(on_transparent("RGBA", (255, 255, 255))),
    "red on transparent": encode(on_transparent("RGBA", (220, 0, 0))),
    "black on transparent, grey": encode(on_transparent("LA", 0)),
    "white on transparent, grey": encode(on_transparent("LA", 255)),
    "one colour is transparent": encode(DARK.convert("RGB"), transparency=(255, 255, 255)),
    "one grey is transparent": encode(DARK, transparency=255),
    "a sheet with a transparent margin": encode(on_a_sheet_with_a_transparent_margin()),
    "1 bit": encode(DARK.convert("1", dither=Image.Dither.NONE)),
    "16 bits": encode(sixteen_bits(65_535)),
    "16 bits, of which 12 are used": encode(sixteen_bits(4_095)),
    "16 bits, of which 8 are used": encode(sixteen_bits(255)),
    "animated": encode(DARK, save_all=True, append_images=[Image.new("L", DARK.size), LIGHT]),
    "JPEG": encode(DARK, "JPEG"),
    "JPEG in colour": encode(in_colour((20, 30, 160), (250, 245, 220)), "JPEG"),
    "JPEG, progressive": encode(DARK.convert("RGB"), "JPEG", progressive=True),
    "JPEG, poor": encode(DARK, "JPEG", quality=20),
    "JPEG of printers, CMYK": encode(DARK.convert("CMYK"), "JPEG"),
    "JPEG of a 3D camera": encode(DARK.convert("RGB"), "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))]),
}


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
    upright = DARK.crop((0, 0, 280, 250))
    stored = upright if as_stored is None else upright.transpose(as_stored)
    ink = read_ink(encode(stored, format, exif=exif), MAX_PIXELS)
    assert ink.shape == (250, 280)
    assert np.abs(ink - TWO[:250]).mean() < 0.01


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # pytest takes away the filter that picture.py sets
@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_notes_of_a_camera_that_make_no_sense_are_left_aside(exif):
    assert np.abs(read_ink(encode(DARK, "JPEG", exif=exif), MAX_PIXELS) - TWO).mean() < 0.01


@pytest.mark.parametrize("light_on_dark", [False, True])
@pytest.mark.parametrize("scale", [1, 10])
def test_a_small_picture_keeps_its_grey_levels_at_its_size_and_enlarged(scale, light_on_dark):
    two = draw_two(28, stroke=0.1)
    levels = np.uint8(255 * (two if light_on_dark else 1 - two))
    image = Image.fromarray(levels).resize((28 * scale, 28 * scale), Image.Resampling.BICUBIC)
    ink = read_ink(encode(image), MAX_PIXELS)
    soft = (two > 0.1) & (two < 0.9)
    assert soft.sum() > 50
    assert ink.shape == (28 * scale, 28 * scale)
    levels = ink if scale == 1 else ink.reshape(28, 10, 28, 10).mean(axis=(1, 3))
    assert np.abs(levels - two)[soft].mean() < (0.01 if scale == 1 else 0.05)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_line_as_thin_as_a_mouse_draws_it_is_full_ink(width):
    image = Image.new("L", (280, 280), 255)
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
    assert 256 < max(ink.shape) <= 512
    assert ink.shape[1] / ink.shape[0] == pytest.approx(1.5, abs=0.01)
    expected = np.asarray(Image.fromarray(TWO).resize(ink.shape[::-1], Image.Resampling.BICUBIC))
    assert np.abs(ink - expected).mean() < 0.01


@pytest.mark.parametrize("size", [(1, 28), (28, 1), (3000, 1), (1, 3000), (1_000_000, 3), (3, 1_000_000)])
def test_a_picture_of_a_single_row_or_column_is_one(size):
    image = Image.new("L", size, 255)
    image.paste(0, (size[0] // 4, size[1] // 4, -(-size[0] // 2), -(-size[1] // 2)))
    ink = read_ink(encode(image), MAX_PIXELS)
    assert (1 in ink.shape, max(ink.shape) <= 512, ink.max()) == (True, True, 1)
    assert np.mean(ink == 1) == pytest.approx(0.25, abs=0.02)


# Photos


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


# What is no picture, or too much of one


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


PNG, JPEG, PALETTE = KINDS["colour"], KINDS["JPEG in colour"], KINDS["palette"]
PALETTE_START, PALETTE_END = PALETTE.index(b"PLTE") - 4, PALETTE.index(b"IDAT") - 4


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b'{"features": []}',
        *(encode(DARK, format) for format in ("GIF", "BMP", "TIFF", "WEBP", "PPM")),
        PNG[:8],
        PNG[:33],
        PNG[: len(PNG) // 2],
        PNG[:100] + b"\0" + PNG[101:],
        PNG[8:],
        PALETTE[:PALETTE_START] + PALETTE[PALETTE_END:],
        PALETTE[:PALETTE_END] + chunk(b"tRNS", bytes(257)) + PALETTE[PALETTE_END:],
        JPEG[:2],
        JPEG[: len(JPEG) // 2],
        JPEG[2:],
    ],
    ids=lambda content: f"{content[:6]}, {len(content)} bytes",
)
def test_what_is_no_whole_png_or_jpeg_is_broken(content):
    with pytest.raises(Broken, match="^the body is not a PNG or JPEG that can be read: "):
        read_ink(content, MAX_PIXELS)


def test_a_bug_of_ours_is_not_blamed_on_the_picture(monkeypatch):
    monkeypatch.setattr(picture, "reduced", lambda image, mode: np.zeros(3).reshape(2, 2))
    with pytest.raises(ValueError, match="cannot reshape"):
        read_ink(PNG, MAX_PIXELS)


def jpeg_that_claims(width: int, height: int) -> bytes:
    """A JPEG with another size in its header, and hardly any data."""
    frame = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:frame] + struct.pack(">HH", height, width) + JPEG[frame + 4 : JPEG.index(b"\xff\xda") + 30]


@pytest.mark.parametrize(
    ("make", "width", "height"),
    [
        (png_that_claims, 4001, 4000),
        (png_that_claims, 2**31 - 1, 1),
        (png_that_claims, 2**31 - 1, 2**31 - 1),
        (jpeg_that_claims, 4001, 4000),
        (jpeg_that_claims, 65_500, 65_500),
    ],
)
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(make, width, height):
    expected = f"^the picture has {width:,} x {height:,} pixels and may have 16,000,000: send a smaller one$"
    with pytest.raises(TooLarge, match=expected):
        read_ink(make(width, height), MAX_PIXELS)


def test_the_limit_of_pixels_is_exact():
    assert read_ink(PNG, 280 * 280).shape == (280, 280)
    with pytest.raises(TooLarge):
        read_ink(PNG, 280 * 280 - 1)


def test_a_jpeg_of_thousands_of_scans_is_refused():
    jpeg = KINDS["JPEG, progressive"]
    last = jpeg.rindex(b"\xff\xda")
    bomb = jpeg[:-2] + 2_000 * jpeg[last:-2] + b"\xff\xd9"
    with pytest.raises(TooLarge, match="^the JPEG has more than 100 scans: "):
        read_ink(bomb, MAX_PIXELS)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_a_bomb_in_what_a_png_says_beside_its_pixels_is_broken(kind):
    packed = zlib.compress(bytes(50_000_000))
    head = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}[kind]
    with pytest.raises(Broken):
        read_ink(PNG[:33] + chunk(kind, head + packed) + PNG[33:], MAX_PIXELS)
