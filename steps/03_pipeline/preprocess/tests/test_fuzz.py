"""Thousands of damaged pictures: each gets an answer with a sentence, and none takes much memory.

The damage is done where it hurts. Chunks of a PNG get their checksum after it, and pixels are packed again: so it gets
through the checks and to the decoders.
"""

import asyncio
import collections
import json
import random
import struct
import sys
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

import app
from conftest import chunk, draw_two, encode
from settings import Settings

COUNT = 6_000
MAX_PIXELS = 1_000_000
MEGABYTES = 64  # that all of them together may add to the most that the process ever took
NUMBERS = [0, 1, 2, 3, 4, 7, 8, 16, 27, 28, 41, 64, 127, 255, 256, 999, 1000, 32_768, 65_535, 2**31 - 1, 2**32 - 1]
SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHUNKS = [b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"tEXt", b"zTXt", b"iTXt"]
CHUNKS += [b"pHYs", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"bKGD", b"juNk", b"\xff\xff\0\0"]


def whole_pictures() -> list[bytes]:
    """PNGs and JPEGs of many kinds, without any damage."""
    two = np.uint8(255 * draw_two(40))
    grey = Image.fromarray(two)
    colour = Image.merge("RGB", (grey, grey, Image.new("L", grey.size, 90)))
    transparent = Image.merge("LA", (Image.new("L", grey.size), grey))
    palette = grey.quantize(16)
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        encode(grey),
        encode(grey.convert("1")),
        encode(np.uint16(two) * 257),
        encode(colour, transparency=(0, 0, 90), dpi=(72, 72)),
        encode(palette),
        encode(palette, transparency=bytes(range(0, 256, 16))),
        encode(transparent),
        encode(transparent.convert("RGBA"), exif=exif),
        encode(grey, save_all=True, append_images=[grey.rotate(90), grey.rotate(180)]),
        encode(grey, "JPEG"),
        encode(colour, "JPEG", exif=exif, comment="two"),
        encode(colour, "JPEG", progressive=True, subsampling=0),
        encode(colour.convert("CMYK"), "JPEG", restart_marker_blocks=1),
        encode(colour, "MPO", save_all=True, append_images=[colour.rotate(90)]),
    ]


def damaged_pictures(count: int, seed: int):
    """Yield so many, the same ones for the same seed."""
    rng, whole = random.Random(seed), whole_pictures()
    for _ in range(count):
        content = rng.choice(whole)
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            in_parts = damage_chunks if content.startswith(SIGNATURE) else damage_segments
            content = rng.choice([in_parts, in_parts, in_parts, damage_bytes, mix])(content, rng, whole)
        yield content


def damage_bytes(content: bytes, rng: random.Random, *_) -> bytes:
    """Change, drop, repeat or add bytes, or cut off the rest."""
    start = rng.randrange(len(content) + 1)
    old = content[start : start + rng.choice([1, 1, 2, 4, 30, 500])]
    value = rng.choice(NUMBERS)
    numbers = [struct.pack(">H", value & 0xFFFF), struct.pack(">I", value), struct.pack("<I", value)]
    new = rng.choice([rng.randbytes(len(old)), rng.randbytes(9), b"", 3 * old, *numbers])
    return content[:start] + new + rng.choice([content[start + len(old) :], content[start + len(new) :], b""])


def mix(content: bytes, rng: random.Random, whole: list[bytes]) -> bytes:
    """Add another picture, or the rest of one."""
    other = rng.choice(whole)
    return content[: rng.choice([len(content), rng.randrange(len(content) + 1)])] + other[rng.randrange(len(other)) :]


def damage_list(parts: list, rng: random.Random) -> None:
    """Drop one, repeat one, or exchange two."""
    one, two = rng.randrange(len(parts)), rng.randrange(len(parts))
    match rng.randrange(3):
        case 0:
            del parts[one]
        case 1:
            parts.insert(two, parts[one])
        case 2:
            parts[one], parts[two] = parts[two], parts[one]


def damage_chunks(content: bytes, rng: random.Random, *_) -> bytes:
    """Damage a PNG in a way that its checksums do not show."""
    parts, place = [], len(SIGNATURE)
    while place + 12 <= len(content):
        end = place + 8 + int.from_bytes(content[place : place + 4])
        parts.append((content[place + 4 : place + 8], content[place + 8 : end]))
        place = end + 4
    if not parts:
        return damage_bytes(content, rng)
    one = rng.randrange(len(parts))
    kind, data = parts[one]
    match rng.randrange(6):
        case 0:
            damage_list(parts, rng)
        case 1:
            parts[one] = kind, damage_bytes(data, rng)
        case 2:
            parts[one] = rng.choice(CHUNKS), data
        case 3:
            text = rng.choice([b"", b"a\0", b"a\0\0", b"a\0\1\0\0\0"]) + zlib.compress(
                bytes(rng.choice([9, 3_000_000]))
            )
            parts.insert(one, (rng.choice(CHUNKS), rng.choice([text, rng.randbytes(rng.choice([0, 4, 26, 768]))])))
        case 4:  # the pixels
            for place, (kind, data) in enumerate(parts):
                if kind == b"IDAT":
                    with suppress(zlib.error):  # it may be damaged already
                        data = zlib.decompressobj().decompress(data, 100_000)
                    parts[place] = kind, zlib.compress(damage_bytes(data, rng))
        case 5:  # the header: width, height, bits, colour type, compression, filter, interlace
            header = [40, 40, 8, 0, 0, 0, 0]
            if len(parts[0][1]) == 13:
                header = list(struct.unpack(">IIBBBBB", parts[0][1]))
            field = rng.randrange(7)
            values = [NUMBERS, NUMBERS, [1, 2, 4, 8, 16, 3], [0, 2, 3, 4, 6, 1], [0, 1], [0, 1], [0, 1]]
            header[field] = rng.choice(values[field])
            parts[0] = b"IHDR", struct.pack(">IIBBBBB", *header)
    return SIGNATURE + b"".join(chunk(kind, data) for kind, data in parts)


def damage_segments(content: bytes, rng: random.Random, *_) -> bytes:
    """Damage a JPEG in the segments of its header, of which the lengths stay right, or in its pixels."""
    parts, place = [], 2
    while content[place : place + 1] == b"\xff" and content[place + 1 : place + 2] != b"\xda":
        end = place + 2 + int.from_bytes(content[place + 2 : place + 4])
        parts.append((content[place + 1 : place + 2], content[place + 4 : end]))
        place = end
    pixels = content[place:]
    if not parts or rng.random() < 0.2:
        return content[:place] + damage_bytes(pixels, rng)
    one = rng.randrange(len(parts))
    kind, data = parts[one]
    match rng.randrange(4):
        case 0:
            damage_list(parts, rng)
        case 1:
            parts[one] = kind, damage_bytes(data, rng)[:65_000]
        case 2:
            parts[one] = b"%c" % rng.choice([*range(0xC0, 0xD0), *range(0xDA, 0xF0), 0xFE]), data
        case 3:  # the header: bits, height, width, number of components, then each one's number, sampling and table
            for place, (kind, data) in enumerate(parts):
                if 0xC0 <= kind[0] <= 0xC2 and data:
                    field, value = rng.randrange(len(data)), rng.choice(NUMBERS) & 0xFF
                    parts[place] = kind, data[:field] + b"%c" % value + data[field + 1 :]
    segments = (b"\xff" + kind + (len(data) + 2).to_bytes(2) + data for kind, data in parts)
    return b"\xff\xd8" + b"".join(segments) + pixels


def most_memory() -> float | None:
    """The megabytes that this process took when it took most, or None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


@pytest.mark.filterwarnings("ignore::UserWarning")  # pytest takes away the filter that picture.py sets
def test_no_damaged_picture_gets_a_500_or_takes_much_memory():
    statuses, sent = collections.Counter(), []
    scope = {"type": "http", "method": "POST", "path": "/features", "query_string": b"", "client": None}
    scope["headers"] = [(b"content-type", b"application/octet-stream")]

    async def send(message):
        sent.append(message)

    async def main():
        asgi = app.create_app(Settings(max_pixels=MAX_PIXELS))
        fastapi = asgi.app.app
        async with fastapi.router.lifespan_context(fastapi):
            for number, content in enumerate(damaged_pictures(COUNT, seed=1)):
                messages = [{"type": "http.request", "body": content}]

                async def receive(messages=messages):
                    return messages.pop() if messages else await asyncio.Event().wait()

                sent.clear()
                await asgi(scope.copy(), receive, send)
                status, reply = sent[0]["status"], json.loads(sent[1]["body"])
                assert status in (200, 400, 413, 422), (number, content)
                assert any(reply["features"]) if status == 200 else reply["error"], (number, content)
                statuses[status] += 1

    before = most_memory()
    asyncio.run(main())
    assert statuses.total() == COUNT
    assert statuses[200] > COUNT / 10  # and as many again are refused by the decoders, but these got through all of it
    assert min(statuses[400], statuses[413], statuses[422]) > 10
    if before:
        assert most_memory() < before + MEGABYTES
