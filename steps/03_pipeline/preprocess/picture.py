"""Read a picture: from the bytes of a PNG or JPEG of any kind to its ink."""

import re
import warnings
from io import BytesIO

import numpy as np
from PIL import ExifTags, Image, ImageFile

from ink import lift_ink

SIDE = 256  # pixels; a larger picture is reduced to at most this many rows and columns. The features need 32
STRIP = 2**20  # pixels that are reduced at a time
SCANS = 100  # a progressive JPEG has about ten; each goes through the whole picture
MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)  # of a JPEG's part; those in between are data
SCAN, END, ALONE = b"\xda", b"\xd9", (b"\xd8", b"\xd9", b"\x01")
ARITHMETIC = b"\xc9\xca\xcb\xcd\xce\xcf"  # a way of coding that no browser and no camera uses, slow to read
PNG, TEXTS = b"\x89PNG\r\n\x1a\n", (b"zTXt", b"iTXt", b"iCCP")
SHORT_TEXT, MAX_TEXTS = 1000, 16  # bytes: compressed, they become at most 1 MB
MAX_SIDE = 1_000_000  # pixels: each row takes memory of its own
# EXIF orientation: whether to mirror the camera's picture, then how many quarters to turn it, counter-clockwise
TURNS = {2: (True, 0), 3: (False, 2), 4: (True, 2), 5: (True, 1), 6: (False, 3), 7: (True, 3), 8: (False, 1)}

Image.MAX_IMAGE_PIXELS = None  # we have our own limit
# One file can cause ten thousand warnings with texts of its own choice, and Python would remember them all.
warnings.filterwarnings("ignore", module="PIL")


class PictureError(Exception):
    """No ink can be read from this picture. The text is a sentence that says why, `status` is HTTP's."""

    status: int


class Broken(PictureError):
    status = 400


class TooLarge(PictureError):
    status = 413


class Blank(PictureError):
    status = 422


def read_ink(content: bytes, max_pixels: int) -> np.ndarray:
    """Return the ink in a picture, from 0 (none) to 1 (a full line), float32 of shape (height, width), each up to 256.

    The picture is dark on light or light on dark, drawn, scanned or photographed. Raises TooLarge before anything is
    decoded, Broken if the content is not a whole PNG or JPEG, Blank if nothing is drawn.
    """
    ink = lift_ink(upright_grey(decode(content, max_pixels)))
    if ink is None:
        raise Blank("the picture is blank: nothing on it stands out from the paper")
    return ink


def decode(content: bytes, max_pixels: int) -> ImageFile.ImageFile:
    """Return the image that the bytes of a file contain."""
    try:
        image = Image.open(BytesIO(without_text(content)), formats=("PNG", "JPEG"))
        check_size(image, content, max_pixels)
        image.draft("L", (SIDE, SIDE))  # a large JPEG can be decoded at a fraction of its size
        image.load()
        if image.mode == "P":  # a broken palette is found only when a pixel is converted
            image.crop((0, 0, 1, 1)).convert("LA" if image.has_transparency_data else "L")
        return image
    except PictureError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise Broken("the body is not a PNG or JPEG that can be read: is the file whole?") from error


def check_size(image: ImageFile.ImageFile, content: bytes, max_pixels: int) -> None:
    """Raise TooLarge if decoding would take too long, judged by the file's header."""
    width, height = image.size
    if width * height > max_pixels:
        raise TooLarge(
            f"the picture has {width:,} x {height:,} pixels, and at most {max_pixels:,} are allowed: send a smaller one"
        )
    if max(width, height) > MAX_SIDE:
        raise TooLarge(f"the picture has {width:,} x {height:,} pixels, and at most {MAX_SIDE:,} on a side are allowed")
    if image.format != "PNG" and has_many_scans(content):
        raise TooLarge(f"the JPEG has more than {SCANS} scans: save it as a baseline JPEG")


def has_many_scans(jpeg: bytes) -> bool:
    """Return whether there are more than SCANS before the picture's end. Some phones append a video to the file."""
    scans, place = 0, 0
    while scans <= SCANS and (marker := MARKER.search(jpeg, place)):
        place = marker.end()
        if marker[1] == END and scans:  # one before the first scan ends nothing
            return False
        if marker[1] in ARITHMETIC and not scans:
            raise Broken("the JPEG has arithmetic coding: save it as a baseline JPEG")
        if marker[1] not in ALONE:  # its length follows
            scans += marker[1] == SCAN
            place += max(int.from_bytes(jpeg[place : place + 2]), 2)
    return scans > SCANS


def without_text(content: bytes) -> bytes:
    """Return a PNG without compressed texts and colour profile, since Pillow refuses large ones.

    A few short ones stay: the camera's EXIF data may be one.
    """
    if not content.startswith(PNG) or not any(kind in content for kind in TEXTS):
        return content
    kept, place, texts = [PNG], len(PNG), 0
    while place < len(content):  # a chunk is its length, its type, so many bytes, and a checksum
        length, kind = int.from_bytes(content[place : place + 4]), content[place + 4 : place + 8]
        end = place + 12 + length
        texts += kind in TEXTS
        if kind not in TEXTS or (length < SHORT_TEXT and texts <= MAX_TEXTS):
            kept.append(content[place:end])
        place = end
    return b"".join(kept)


def upright_grey(image: ImageFile.ImageFile) -> np.ndarray:
    """Return the levels of an image, 0 to 255, upright, float32 of shape (height, width), each up to 256."""
    if image.mode.startswith("I"):  # 16 bits; some cameras and tools use fewer of them
        levels = reduced(image, "F")
        levels *= 255 / max(levels.max(), 1)
    elif image.has_transparency_data and not is_opaque(image):
        levels = with_background(*np.moveaxis(reduced(image, "LA"), -1, 0))
    else:
        levels = reduced(image, "L")
    mirrored, quarters = TURNS.get(orientation(image), (False, 0))
    return np.rot90(levels[:, ::-1] if mirrored else levels, quarters)


def reduced(image: Image.Image, mode: str) -> np.ndarray:
    """Convert an image to another mode and average blocks of it: float32 of shape (height, width[, bands])."""
    width, height = image.size
    block = -(-max(width, height) // SIDE)
    rows = block * max(1, STRIP // (width * block))
    strips = []
    for top in range(0, height, rows):  # in strips, since a converted copy of the whole would double the memory
        strip = image.crop((0, top, width, min(top + rows, height))).convert(mode)
        strips.append(np.asarray(strip.reduce(block), dtype=np.float32))
    return np.concatenate(strips)


def is_opaque(image: Image.Image) -> bool:
    """Return whether a picture could be transparent but is not anywhere. What browsers draw is like that."""
    return image.mode in ("LA", "RGBA") and image.getchannel("A").getextrema() == (255, 255)


def with_background(levels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Put black or white behind transparent pixels. `alpha` is from 0, transparent, to 255, opaque."""
    if not alpha.any():
        return alpha
    shown = levels[alpha > alpha.max() / 2]
    light = np.median(shown) > 127
    has_paper = shown.size > levels.size / 2 and shown.std() > 32
    background = 255 if light == has_paper else 0  # continue the paper, or contrast with lines
    return background + (levels - background) * (alpha / 255)


def orientation(image: Image.Image) -> int:
    """Return the orientation in the EXIF data, 1 (as it is) if there is none."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # EXIF data can be broken in as many ways as the picture, but we can do without them
        return 1
