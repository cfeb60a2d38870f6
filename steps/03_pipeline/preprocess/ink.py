"""Tell ink from paper: from grey levels to ink, whatever the light, the paper and the pen.

The paper of a drawing or a scan has one level, and the frame of the picture shows it. In a photo, light and shadow lie
on the paper. What it looks like there without the ink is found by painting over all that is thin and dark: take the
highest level around each pixel, then the lowest of those around each pixel. That is a closing, see Serra, Image
Analysis and Mathematical Morphology (1982). It keeps the edges of shadows, which a fitted surface would miss.
"""

import numpy as np

FAINT = 8  # grey levels of 255; what differs from the paper by less is not drawn
DUST = 0.1  # what has less ink than this part of a line has none
SIDE = 256  # pixels; a photo is reduced to it at most, which evens its noise out
STROKES = (20, 14, 10, 7, 5)  # so many strokes of a pen fit side by side into a photo


def lift_ink(grey: np.ndarray) -> np.ndarray | None:
    """Return the ink in a picture, from 0 (none) to 1 (a full line), or None if nothing is drawn.

    `grey` are levels from 0 to 255, float32 of shape (height, width). The ink has the same shape, or that of a photo
    reduced to 256 rows and columns at most. The soft edges of lines are kept.
    """
    frame = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    level = np.percentile(frame, 50, method="nearest")  # a median can be a level that no pixel has
    sign = 1 if third_moment(grey - level) > 0 else -1
    contrast, frame = sign * (grey - level), sign * (frame - level)
    peak = smooth(contrast).max()
    if peak < FAINT:
        return None
    # Three standard deviations of the paper's noise, by the few pixels of the frame that differ most from the others.
    # White paper has its noise on the side of ink only. But a drawing has none: what is on that side there, is ink.
    away, towards = np.percentile(frame, [2, 90])
    drawn = np.sum((contrast > 0) & (contrast < peak / 2)) < 0.4 * np.sum(contrast == 0)
    noise = max(-1.5 * away, 0 if drawn else 2.3 * towards)
    if noise < 0.3 * peak:
        return normalize(contrast, ..., peak, noise)
    return lift_ink_from_photo(smooth(reduce(grey)))


def lift_ink_from_photo(grey: np.ndarray) -> np.ndarray | None:
    """The same, if the light on the paper is uneven."""
    if min(grey.shape) < 9:
        return None
    # In logarithms, both sides of a shadow's edge differ by as much from their mean. What remains is ink.
    logs = np.log(np.maximum(grey, 8))
    details = [logs - blur(logs, max(grey.shape) // part) for part in (4, 8, 16)]
    if sum(third_moment(detail) / (detail.std() + 1e-6) ** 3 for detail in details) > 0.5:  # chalk on a blackboard
        grey = -grey

    found = None
    for strokes in STROKES:
        width = max(3, min(max(grey.shape) // strokes, min(grey.shape) // 3) | 1)
        inside = (slice(width - 1, 1 - width),) * 2
        contrast = smooth(paint_over(grey, width) - grey)
        contrast -= np.median(contrast)
        peak = smooth(contrast[inside]).max()
        if found and inked(contrast[inside], peak) < 1.3 * inked(found[0][found[1]], peak):
            break  # no stroke is wider than the width before
        found = contrast, inside, peak
    else:
        return None  # what is wider each time is a shadow
    contrast, inside, peak = found

    noise = 4.5 * np.median(np.abs(contrast))
    if peak < max(FAINT, 4 * noise):
        return None
    ink = normalize(contrast, inside, peak, noise)
    lines = np.zeros(ink.shape, dtype=bool)
    lines[inside] = ink[inside] > 0.5
    return ink * connected(lines, ink > 0)  # near the edge, where the paper is a guess, only lines from further inside


def inked(contrast: np.ndarray, peak: float) -> int:
    """Return how many pixels have a line's contrast."""
    return np.count_nonzero(contrast > peak / 2)


def normalize(contrast: np.ndarray, inside, peak: float, noise: float) -> np.ndarray:
    """Return ink: 0 where the contrast is that of noise, 1 where it is that of most lines in the part `inside`."""
    line = np.median(contrast[inside][contrast[inside] > peak / 2])
    ink = ((contrast - noise) / (line - noise)).clip(0, 1)
    ink[ink < DUST] = 0
    return ink.astype(np.float32)


def paint_over(grey: np.ndarray, width: int) -> np.ndarray:
    """Return the levels without what is dark and less than `width` pixels wide, an odd number."""
    paper = -highest(-highest(grey, width), width)
    # Some of what is around a pixel near the edge is not in the picture. The light goes on there as it does inside.
    return np.pad(paper, width - 1, mode="reflect", reflect_type="odd")


def connected(lines: np.ndarray, ink: np.ndarray) -> np.ndarray:
    """Return the pixels of `ink` that are on `lines` or connected to one."""
    for _ in range(SIDE):  # a picture can be made to take much longer, a digit cannot
        lines, before = highest(np.pad(lines, 1), 3) & ink, lines
        if np.array_equal(lines, before):
            break
    return lines


def highest(levels: np.ndarray, width: int) -> np.ndarray:
    """Return the maximum of each square of `width` pixels: width - 1 rows and columns less."""
    for _ in range(2):
        size = 1
        while size < width:
            step = min(size, width - size)
            levels = np.maximum(levels[:-step], levels[step:])
            size += step
        levels = levels.T
    return levels


def smooth(levels: np.ndarray) -> np.ndarray:
    """Average each pixel with its eight neighbours, the nearer the more."""
    for _ in range(2):
        wide = np.pad(levels, [(1, 1), (0, 0)], mode="edge")
        levels = ((wide[:-2] + 2 * levels + wide[2:]) / 4).T
    return levels


def blur(levels: np.ndarray, width: int) -> np.ndarray:
    """Return the mean of the square of about `width` pixels around each pixel."""
    half = width // 2
    for _ in range(2):
        sums = np.cumsum(np.pad(levels, [(half + 1, half), (0, 0)], mode="edge"), axis=0, dtype=np.float64)
        levels = ((sums[2 * half + 1 :] - sums[: -2 * half - 1]) / (2 * half + 1)).T
    return levels


def reduce(grey: np.ndarray) -> np.ndarray:
    """Return the means of square blocks, the smallest that make it SIDE at most."""
    block = -(-max(grey.shape) // SIDE)
    grey = np.pad(grey, [(0, -size % block) for size in grey.shape], mode="edge")
    height, width = grey.shape
    return grey.reshape(height // block, block, width // block, block).mean(axis=(1, 3))


def third_moment(levels: np.ndarray) -> float:
    """Return the mean cube: negative if the few levels that are far from the others are dark, positive if light."""
    return float((levels * levels * levels).mean())
