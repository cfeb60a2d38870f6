"""Turn the ink of a picture into the 64 features that the model was trained on.

The model knows the digits of the UCI set, and those went through NIST's normalisation before their ink was counted: cut
out, made upright, stretched to 20x32 pixels in a frame of 32x32, and thinned or thickened until all had about as much
ink. `v1` does nothing of that, and counts what it gets. `v2` does all of it.

Both take ink of shape (height, width), float, 0 = paper … 1 = full ink, and return 64 whole numbers 0..16.
"""

import numpy as np
from PIL import Image

FRAME, WIDTH = 32, 20  # a UCI digit is as high as its frame of 32 pixels, and about 20 wide (measured: 20.4 and 31.9)
INK = 312  # pixels of 1024 that are inked in a UCI bitmap, on average, whatever the digit
NARROW = 0.4  # width : height; what is narrower, like a plain 1, is not stretched to the full width
BLUR = 0.8  # pixels of the frame; the blur tells how near a pixel is to the digit


def v1(ink: np.ndarray) -> np.ndarray:
    """Shrink the whole picture to 8x8, as a first attempt would."""
    return np.rint(16 * resize(ink, 8, 8)).clip(0, 16).astype(int).ravel()


def v2(ink: np.ndarray) -> np.ndarray:
    """Redraw the digit as UCI's were, and count the ink in each block of 4x4 pixels."""
    if not ink.any():
        return np.zeros(64, dtype=int)
    digit = crop(upright(rescale(crop(ink))))
    bitmap = even_strokes(fill_frame(digit))
    return bitmap.reshape(8, 4, 8, 4).sum(axis=(1, 3)).ravel()


def rescale(ink: np.ndarray) -> np.ndarray:
    """Bring the digit to twice the height of the frame: fine enough, and the same work for every picture."""
    height, width = ink.shape
    return resize(ink, 2 * FRAME, min(max(1, round(2 * FRAME * width / height)), 16 * FRAME))


def resize(ink: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resample to another size; every pixel of the old one counts, so thin strokes get faint but do not vanish."""
    return np.asarray(Image.fromarray(ink.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC))


def crop(ink: np.ndarray) -> np.ndarray:
    """Cut off the empty rows and columns around the digit. The soft edge of a stroke counts as empty."""
    inked = ink > 0.4 * ink.max()
    rows, columns = inked.any(axis=1).nonzero()[0], inked.any(axis=0).nonzero()[0]
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def upright(ink: np.ndarray) -> np.ndarray:
    """Push the rows sideways until the ink leans neither left nor right: until across and down have no covariance."""
    ink = ink.clip(0)
    height, width = ink.shape
    down, across = np.mgrid[:height, :width].astype(float)
    down, across = down - np.average(down, weights=ink), across - np.average(across, weights=ink)
    lean = (ink * across * down).sum() / max((ink * down * down).sum(), 1e-9)  # columns per row
    lean = np.clip(lean, -1, 1)  # nobody writes flatter than at 45 degrees
    margin = int(np.ceil(abs(lean) * height))
    columns, padded = np.arange(-margin, width + margin), np.pad(ink, ((0, 0), (1, 1)))
    pushed = [np.interp(columns + 1 + lean * down[y, 0], np.arange(width + 2), padded[y]) for y in range(height)]
    return np.stack(pushed)


def fill_frame(digit: np.ndarray) -> np.ndarray:
    """Stretch to 20x32, as NIST did, and put it in the middle of the frame; a narrow digit stays narrow."""
    height, width = digit.shape
    width = max(2, round(WIDTH * min(1, width / height / NARROW)))
    frame = np.zeros((FRAME, FRAME), dtype=np.float32)
    left = (FRAME - width) // 2
    frame[:, left : left + width] = resize(digit, FRAME, width)
    return frame


def even_strokes(frame: np.ndarray) -> np.ndarray:
    """Ink the INK pixels that are nearest to the ink of the digit: thin strokes grow by that, and thick ones shrink."""
    distance = np.subtract.outer(np.arange(FRAME), np.arange(FRAME))
    blur = np.exp(-((distance / BLUR) ** 2) / 2)
    nearness = (blur @ frame @ blur).ravel()
    bitmap = np.zeros(FRAME * FRAME, dtype=int)
    bitmap[nearness.argsort(kind="stable")[-INK:]] = 1
    return bitmap.reshape(FRAME, FRAME)


VERSIONS = {"v1": v1, "v2": v2}
