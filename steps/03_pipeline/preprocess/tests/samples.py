"""A drawing of a 2 as a PNG or JPEG of every kind."""

import numpy as np
from PIL import Image

from conftest import draw_two, encode

MAX_PIXELS = 16_000_000
TWO = draw_two(250)
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
    image.paste(DARK.convert("RGB").crop((20, 20, 230, 230)), (20, 20))
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
