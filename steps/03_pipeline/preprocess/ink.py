"""Tell ink from paper: from grey levels to ink, whatever the light, the paper and the pen.

The paper of a drawing or a scan has one level, and the edge of the picture shows it. In a photo, the paper is lighter
here and darker there. What it would look like without the ink is found by painting over everything thin and dark: take
the highest level around each pixel, then the lowest of those around each pixel. That is a closing, see Serra, Image
Analysis and Mathematical Morphology (1982). It keeps the edges of shadows, which a fitted surface would miss.
"""

import numpy as np

FAINT = 8  # grey levels of 255; a smaller difference from the paper is not ink
DUST = 0.1  # of a full line; less ink than this counts as none
STROKES = (20, 14, 10, 7, 5)  # how many strokes of a pen fit side by side into a photo: thin pens first

Part = tuple[slice, slice]  # rows and columns of a picture
WHOLE: Part = (slice(None), slice(None))


def lift_ink(grey: np.ndarray) -> np.ndarray | None:
    """Return the ink in a picture, from 0 (none) to 1 (a full line), or None if nothing is drawn.

    `grey` are levels from 0 to 255, float32 of shape (height, width). The ink has the same shape. The soft edges of
    lines are kept.
    """
    edge = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    level = np.sort(edge)[edge.size // 2]
    contrast, edge = grey - level, edge - level
    if third_moment(contrast) <= 0:  # dark on light
        contrast, edge = -contrast, -edge
    peak = float(smooth(contrast).max())
    if peak < FAINT:
        return None
    # Three standard deviations of the paper's noise, judged by the 2 % of the edge that are least like ink.
    edge.sort()
    noise = -1.5 * float(edge[edge.size * 2 // 100])
    # White paper has noise on the side of ink only. In a drawing without noise, whatever is on that side is ink.
    towards = float(edge[edge.size * 90 // 100])
    if towards > 0 and not is_clean(contrast, peak):
        noise = max(noise, 2.3 * towards)
    if noise < 0.3 * peak:
        return normalize(contrast, WHOLE, peak, noise)
    return lift_ink_from_photo(smooth(grey))


def is_clean(contrast: np.ndarray, peak: float) -> bool:
    """Return whether most of the paper has exactly one level, as in a drawing."""
    faint = np.count_nonzero((contrast > 0) & (contrast < peak / 2))
    return bool(faint < 0.4 * np.count_nonzero(contrast == 0))


def lift_ink_from_photo(grey: np.ndarray) -> np.ndarray | None:
    """Return the same as lift_ink() for a photo: the light on the paper is uneven."""
    if min(grey.shape) < 9:
        return None
    # In logarithms, both sides of a shadow's edge differ equally from their mean. What remains is ink.
    logs = np.log(np.maximum(grey, 8))
    details = [logs - blur(logs, max(grey.shape) // part) for part in (4, 8, 16)]
    if sum(third_moment(detail) / (detail.std() + 1e-6) ** 3 for detail in details) > 0.5:  # chalk on a blackboard
        grey = -grey

    found: tuple[np.ndarray, Part, float] | None = None
    for strokes in STROKES:
        width = max(3, min(max(grey.shape) // strokes, min(grey.shape) // 3) | 1)
        inside = (slice(width - 1, 1 - width), slice(width - 1, 1 - width))
        contrast = smooth(paint_over(grey, width) - grey)
        contrast -= np.median(contrast)
        peak = float(smooth(contrast[inside]).max())
        if found and inked(contrast[inside], peak) < 1.3 * inked(found[0][found[1]], peak):
            break  # the width before was enough: no stroke is wider
        found = contrast, inside, peak
    else:
        return None  # each width finds more: a shadow
    contrast, inside, peak = found

    noise = 4.5 * float(np.median(np.abs(contrast)))
    if peak < max(FAINT, 4 * noise):
        return None
    ink = normalize(contrast, inside, peak, noise)
    lines = np.zeros(ink.shape, dtype=bool)
    lines[inside] = ink[inside] > 0.5
    # Near the edge the paper is a guess. There, only lines that come from further inside are ink.
    return ink * connected(lines, ink > 0)


def inked(contrast: np.ndarray, peak: float) -> int:
    """Return how many pixels have a line's contrast."""
    return int(np.count_nonzero(contrast > peak / 2))


def normalize(contrast: np.ndarray, inside: Part, peak: float, noise: float) -> np.ndarray:
    """Return ink: 0 where the contrast is that of noise, 1 where it is that of most lines in the part `inside`."""
    lines = contrast[inside]
    line = np.median(lines[lines > peak / 2])
    ink = ((contrast - noise) / (line - noise)).clip(0, 1)
    ink[ink < DUST] = 0
    return ink.astype(np.float32, copy=False)


def paint_over(grey: np.ndarray, width: int) -> np.ndarray:
    """Return the levels without what is dark and less than `width` pixels wide, an odd number."""
    paper = -highest(-highest(grey, width), width)
    # The surroundings of a pixel near the edge are partly outside. The light continues there as it does inside.
    return np.pad(paper, width - 1, mode="reflect", reflect_type="odd")


def connected(lines: np.ndarray, ink: np.ndarray) -> np.ndarray:
    """Return the pixels of `ink` that are on `lines` or connected to one."""
    for _ in range(max(ink.shape)):  # a digit needs fewer steps; a picture made to need more does not get them
        lines, before = highest(np.pad(lines, 1), 3) & ink, lines
        if np.array_equal(lines, before):
            break
    return lines


def highest(levels: np.ndarray, width: int) -> np.ndarray:
    """Return the maximum of each square of `width` pixels: width - 1 rows and columns fewer."""
    for _ in range(2):
        size = 1
        while size < width:
            step = min(size, width - size)
            levels = np.maximum(levels[:-step], levels[step:])
            size += step
        levels = levels.T
    return levels


def smooth(levels: np.ndarray) -> np.ndarray:
    """Average each pixel with its eight neighbours; nearer ones count more."""
    wide = np.pad(levels, 1, mode="edge")
    rows = wide[:-2] + 2 * wide[1:-1] + wide[2:]
    return (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 16


def blur(levels: np.ndarray, width: int) -> np.ndarray:
    """Return the mean of the square of about `width` pixels around each pixel."""
    half = width // 2
    for _ in range(2):
        sums = np.cumsum(np.pad(levels, [(half + 1, half), (0, 0)], mode="edge"), axis=0, dtype=np.float64)
        levels = ((sums[2 * half + 1 :] - sums[: -2 * half - 1]) / (2 * half + 1)).T
    return levels


def third_moment(levels: np.ndarray) -> float:
    """Return the mean cube: negative if the few levels that are far from the others are dark, positive if light."""
    return float((levels * levels * levels).mean())
