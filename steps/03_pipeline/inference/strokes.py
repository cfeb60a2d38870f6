"""Draw digits from strokes, in shapes that are rare in the UCI set: its 13 writers made few plain 1s, few 7s without a
bar, few open 4s.

A drawn digit then gets the form of a UCI digit: upright, stretched to 20x32 pixels in the middle of a bitmap of 32x32,
with about the same amount of ink.
"""

import numpy as np
from scipy import ndimage

SIDE, WIDTH = 32, 20  # of the bitmap, and of the digit in it, in pixels
INK = 312  # inked pixels in a bitmap, on average

# The ways to write each digit. A way is a list of strokes. A stroke is a list of places that the pen goes to in turn:
# a point (x, y), in pixels of the box of 20x32, or an arc (x, y, radius across, radius down, from, to). Angles
# are in degrees: 0 is right of the arc's centre (x, y), 90 below it, 180 left of it.
WAYS: dict[int, list[list[list[tuple[int, ...]]]]] = {
    0: [
        [[(10, 16, 10, 16, -90, 270)]],
        [[(10, 16, 10, 16, -50, -400)]],
    ],
    1: [
        [[(10, 0), (10, 16), (10, 32)]],
        [[(10, 0), (10, 16), (10, 32)]],
        [[(5, 8), (11, 0), (11, 32)]],
        [[(2, 12), (12, 0), (10, 32)]],
        [[(4, 7), (11, 0), (11, 32)], [(3, 32), (18, 32)]],
    ],
    2: [
        [[(10, 8, 9, 8, -170, 40), (1, 32), (19, 32)]],
        [[(10, 8, 9, 8, -160, 50), (4, 28, 4, 4, 0, 270), (19, 31)]],
        [[(10, 8, 9, 8, -150, 50), (2, 30), (10, 29), (19, 31)]],
        [[(10, 6, 6, 6, -170, 50), (3, 30), (18, 32)]],
    ],
    3: [
        [[(9, 8, 9, 8, -150, 90), (9, 24, 11, 8, -90, 140)]],
        [[(10, 6, 7, 6, -150, 90), (9, 21, 11, 11, -90, 150)]],
        [[(9, 10, 10, 10, -150, 80), (9, 26, 8, 7, -90, 140)]],
        [[(3, 3), (10, 5, 6, 5, -130, 80), (8, 21, 9, 11, -80, 170)]],
        [[(2, 0), (18, 0), (8, 13), (8, 22, 11, 10, -80, 140)]],
        [[(2, 2), (14, 4), (9, 14), (9, 23, 11, 9, -70, 120)]],
        [[(2, 4), (12, 0), (17, 5), (7, 14), (16, 19), (12, 28), (2, 32)]],
    ],
    4: [
        [[(4, 0), (1, 19), (20, 19)], [(15, 4), (14, 32)]],
        [[(3, 1), (2, 14), (10, 17), (18, 14)], [(18, 0), (16, 32)]],
        [[(3, 0), (9, 11, 7, 8, 180, 20), (18, 2), (15, 32)]],
        [[(13, 0), (0, 21), (20, 21)], [(13, 0), (13, 32)]],
    ],
    5: [
        [[(18, 0), (4, 0), (3, 13), (9, 22, 10, 10, -120, 150)]],
        [[(17, 0), (6, 1), (4, 15), (9, 24, 7, 8, -90, 150)]],
        [[(18, 0), (6, 1), (4, 12), (8, 23, 11, 9, -60, 140)]],
        [[(4, 1), (3, 14), (9, 22, 10, 10, -110, 140)], [(4, 1), (19, 0)]],
        [[(3, 4), (3, 14), (8, 22, 9, 10, -80, 150)], [(3, 4), (20, 0)]],
    ],
    6: [
        [[(18, 20, 17, 20, -100, -180), (10, 22, 9, 10, 180, -160)]],
        [[(18, 20, 17, 20, -90, -180), (10, 25, 9, 7, 180, -120), (5, 26)]],
        [[(11, 15, 11, 15, -50, -180), (11, 22, 9, 9, 180, -180)]],
        [[(9, 0), (2, 20), (10, 23, 8, 9, 170, -150)]],
        [[(12, 0), (3, 22), (11, 25, 8, 6, 170, -160)]],
        [[(15, 0), (3, 20), (9, 25, 8, 7, 180, -150)]],
        [[(13, 0), (6, 6), (2, 16), (2, 27), (8, 32), (15, 28), (19, 20), (13, 18), (5, 26)]],
        [[(12, 0), (3, 14), (1, 25), (7, 32), (13, 30), (19, 19), (11, 19), (3, 27)]],
    ],
    7: [
        [[(1, 1), (19, 1), (8, 32)]],
        [[(1, 5), (1, 1), (19, 1), (12, 14), (9, 32)]],
        [[(1, 2), (19, 1), (26, 30, 16, 26, -130, -185)]],
        [[(1, 2), (19, 1), (8, 32)], [(5, 16), (16, 15)]],
    ],
    8: [
        [[(10, 8, 8, 8, -20, -240), (10, 24, 10, 8, -60, 240), (17, 5)]],
        [[(16, 3), (10, 8, 8, 7, -50, -240), (10, 25, 9, 7, -60, 200), (13, 4)]],
        [[(10, 8, 8, 8, -90, 270)], [(10, 24, 10, 8, -90, 270)]],
    ],
    9: [
        [[(9, 9, 9, 9, 0, -360), (18, 8), (17, 32)]],
        [[(16, 3), (8, 8, 8, 7, -50, -340), (15, 6), (11, 32)]],
        [[(9, 9, 9, 9, -20, -370), (0, 10, 18, 22, -5, 70)]],
        [[(9, 9, 9, 9, -30, -360), (18, 22), (10, 23, 8, 9, 0, 120)]],
        [[(16, 1), (3, 3), (4, 14), (16, 10)], [(16, 2), (14, 32)]],
    ],
}


def draw(digit: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a digit, varied by `rng`, into a bitmap: 0 or 1, as float, of shape (32, 32)."""
    ways = WAYS[digit]
    line = np.vstack([trace(stroke, rng) for stroke in ways[rng.integers(len(ways))]])
    line = upright(bend(line, rng), lean=rng.normal(0, 0.2))
    ink = round(INK * rng.normal(1, 0.1))
    line = stretch(line, thickness=min(4 * ink / len(line), 9), pen=rng.uniform(2, 6))
    paper = np.ones((SIDE, SIDE))
    across, down = line.round().astype(int).clip(0, SIDE - 1).T
    paper[down, across] = 0
    distance = ndimage.distance_transform_edt(paper)  # the `ink` pixels that are nearest to the line are inked
    return (distance <= np.sort(distance, axis=None)[ink]).astype(float)


def trace(stroke: list[tuple[int, ...]], rng: np.random.Generator) -> np.ndarray:
    """Return the points on the pen's path, four for each pixel, of shape (n, 2): across, down. `rng` varies them."""
    points: list[np.ndarray] = []
    for place in stroke:
        if len(place) == 2:
            points.append(place + rng.normal(0, 1.7, 2))
        else:
            x, y, across, down, start, end = place + rng.normal(0, [1.3, 1.3, 1.7, 1.7, 18, 18])
            angle = np.radians(np.linspace(start, end, 24))
            points.extend(np.column_stack([x + across * np.cos(angle), y + down * np.sin(angle)]))
    places = np.array(points)
    length = np.r_[0, np.hypot(*np.diff(places, axis=0).T).cumsum()]
    at = np.arange(0, length[-1], 0.25)
    return np.column_stack([np.interp(at, length, axis) for axis in places.T])


def bend(line: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bend the whole digit by slow waves, about two pixels high, both across and down."""
    waves = np.sin(line[:, None, ::-1] / 6 + rng.uniform(0, 2 * np.pi, (2, 2)))
    return line + (waves * rng.normal(0, 2, (2, 2))).sum(axis=2)


def upright(line: np.ndarray, lean: float) -> np.ndarray:
    """Remove the digit's slant, and give it a slant of `lean` columns per row."""
    across, down = (line - line.mean(axis=0)).T
    return np.column_stack([across - (across @ down / (down @ down) + lean) * down, down])


def stretch(line: np.ndarray, thickness: float, pen: float) -> np.ndarray:
    """Stretch the digit to the box. A narrow digit, such as a plain 1, stays narrow; `pen` is the width of its line."""
    low, size = line.min(axis=0), np.ptp(line, axis=0)
    slim = (size[0] + pen) / (size[1] + pen) / 0.4
    box = np.array([WIDTH * min(1, slim), SIDE]) - thickness
    return (line - low - size / 2) / size.clip(0.1) * box.clip(0.5) + (SIDE - 1) / 2
