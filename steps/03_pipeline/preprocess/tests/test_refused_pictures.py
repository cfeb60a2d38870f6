"""Files that are broken, too large or not pictures at all are refused with a sentence."""

import struct
import time
import zlib

import numpy as np
import pytest
from samples import DARK, KINDS, MAX_PIXELS

import picture
from conftest import chunk, encode, png_that_claims
from picture import Broken, TooLarge, read_ink

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


def test_what_stands_behind_the_end_of_a_jpeg_is_ignored():
    film = b"\xff\xda\x00\x02" * 100_000  # a phone's: it is not a picture's scans
    assert np.array_equal(read_ink(JPEG + film, MAX_PIXELS), read_ink(JPEG, MAX_PIXELS))


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_a_bomb_beside_the_pixels_of_a_png_is_ignored(kind):
    head = {b"zTXt": b"Comment\0\0", b"iTXt": b"Comment\0\1\0\0\0", b"iCCP": b"profile\0\0"}[kind]
    text, end_of_header = chunk(kind, head + zlib.compress(bytes(50_000_000))), 33
    with_text = PNG[:end_of_header] + text + PNG[end_of_header:]
    assert np.array_equal(read_ink(with_text, MAX_PIXELS), read_ink(PNG, MAX_PIXELS))


def test_a_jpeg_full_of_fill_bytes_costs_no_time():
    start_of_scan = JPEG.index(b"\xff\xda")
    begin = time.perf_counter()
    with pytest.raises(Broken):
        read_ink(JPEG[:start_of_scan] + b"\xff" * 20_000 + b"\0", MAX_PIXELS)
    assert time.perf_counter() - begin < 2  # ten, if each of them were a place to begin


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
    expected = (
        f"^the picture has {width:,} x {height:,} pixels, and at most 16,000,000 are allowed: send a smaller one$"
    )
    with pytest.raises(TooLarge, match=expected):
        read_ink(make(width, height), MAX_PIXELS)


def test_the_limit_of_pixels_is_exact():
    assert read_ink(PNG, 250 * 250).shape == (250, 250)
    with pytest.raises(TooLarge):
        read_ink(PNG, 250 * 250 - 1)


def test_a_jpeg_of_thousands_of_scans_is_refused():
    jpeg = KINDS["JPEG, progressive"]
    last = jpeg.rindex(b"\xff\xda")
    bomb = jpeg[:-2] + 2_000 * jpeg[last:-2] + b"\xff\xd9"
    for prefix in (b"", b"\xff\xd8\xff\xd9", 3 * b"\xff\xd8\xff\xd9"):  # an end before the picture ends nothing
        assert np.array_equal(read_ink(prefix + jpeg, MAX_PIXELS), read_ink(jpeg, MAX_PIXELS))
        with pytest.raises(TooLarge, match="^the JPEG has more than 100 scans: "):
            read_ink(prefix + bomb, MAX_PIXELS)


def test_a_jpeg_with_arithmetic_coding_is_refused():
    frame = JPEG.index(b"\xff\xc0")
    with pytest.raises(Broken, match="^the JPEG has arithmetic coding: "):
        read_ink(JPEG[: frame + 1] + b"\xc9" + JPEG[frame + 2 :], MAX_PIXELS)


def test_a_picture_of_one_column_and_millions_of_rows_is_refused():
    with pytest.raises(TooLarge, match="at most 1,000,000 on a side are allowed$"):
        read_ink(png_that_claims(1, 2_000_000), MAX_PIXELS)


def test_of_many_texts_in_a_png_a_few_are_kept():
    end_of_header = 33
    texts = b"".join(chunk(b"zTXt", b"%d\0\0" % number + zlib.compress(bytes(900))) for number in range(40))
    kept = picture.without_text(PNG[:end_of_header] + texts + PNG[end_of_header:])
    assert kept.count(b"zTXt") == 16
