"""Turn the ink of a picture into the 64 features that the model was trained on.

The model knows the digits of the UCI set. Before their ink was counted, NIST normalised them: cut them out, made them
upright, stretched them to 20x32 pixels in a frame of 32x32, and thinned or thickened their strokes until all had about
the same amount of ink. `v1` does not do that and counts what it gets. `v2` does all of it.

Both take ink of shape (height, width), float32, 0 = paper … 1 = full ink, and return 64 whole numbers from 0 to 16.
"""

import math

import numpy as np
from PIL import Image

FRAME, WIDTH = 32, 20  # a UCI digit is as high as its frame of 32 pixels, and about 20 wide (measured: 20.4 and 31.9)
INK = 312  # of 1024 pixels are inked in a UCI bitmap, on average, about the same for each digit
NARROW = 0.4  # width : height; a narrower digit, like a plain 1, is not stretched to the full width
# A blur of 0.8 pixels, as a matrix: it tells how near each pixel of the frame is to the digit.
BLUR = np.exp(-((np.subtract.outer(np.arange(FRAME), np.arange(FRAME)) / 0.8) ** 2) / 2)


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
    """Resample to another size. Every old pixel counts, so thin strokes get faint but do not vanish."""
    return np.asarray(Image.fromarray(ink).resize((width, height), Image.Resampling.BICUBIC))


def crop(ink: np.ndarray) -> np.ndarray:
    """Cut off the empty rows and columns around the digit. The soft edges of strokes count as empty."""
    inked = ink > 0.4 * ink.max()
    rows, columns = inked.any(axis=1).nonzero()[0], inked.any(axis=0).nonzero()[0]
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def upright(ink: np.ndarray) -> np.ndarray:
    """Push the rows sideways until the ink leans neither left nor right: its covariance of across and down is 0."""
    ink = ink.clip(0)
    height, width = ink.shape
    rows, columns = np.arange(height), np.arange(width)
    by_row, by_column, total = ink.sum(axis=1), ink.sum(axis=0), ink.sum()
    middle = rows @ by_row / total
    down, across = rows - middle, columns - columns @ by_column / total
    lean = down @ ink @ across / max(down**2 @ by_row, 1e-9)  # columns per row
    lean = max(-1, min(lean, 1))  # handwriting leans by 45 degrees at most
    margin = math.ceil(abs(lean) * height)
    # The new pixel (x, y) shows the old one at x + lean * (y - middle) - margin. Pillow counts from pixels' corners.
    to_old = (1, lean, -lean * (middle + 0.5) - margin, 0, 1, 0)
    size = (width + 2 * margin, height)
    return np.asarray(Image.fromarray(ink).transform(size, Image.Transform.AFFINE, to_old, Image.Resampling.BILINEAR))


def fill_frame(digit: np.ndarray) -> np.ndarray:
    """Stretch to 20x32, as NIST did, and put it in the middle of the frame. A narrow digit stays narrow."""
    height, width = digit.shape
    width = max(2, round(WIDTH * min(1, width / height / NARROW)))
    frame = np.zeros((FRAME, FRAME), dtype=np.float32)
    left = (FRAME - width) // 2
    frame[:, left : left + width] = resize(digit, FRAME, width)
    return frame


def even_strokes(frame: np.ndarray) -> np.ndarray:
    """Ink the INK pixels that are nearest to the ink of the digit: thin strokes grow, thick ones shrink."""
    nearness = (BLUR @ frame @ BLUR).ravel()
    bitmap = np.zeros(FRAME * FRAME, dtype=int)
    bitmap[nearness.argsort(kind="stable")[-INK:]] = 1
    return bitmap.reshape(FRAME, FRAME)


VERSIONS = {"v1": v1, "v2": v2}
