"""Draw digits from strokes, each time as another hand would: new pictures for the pipeline."""

from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw

SIZE = 280  # pixels
# The ways in which people write each digit. A way is one stroke or more, a stroke is the points that the pen passes:
# "3020" is 30 % across and 20 % down. A point given twice is a corner. A way given twice is twice as frequent.
WAYS = {
    0: [
        ["5000 1522 0555 2088 5099 8580 9545 8012 5000"],
        ["6504 3002 0835 1080 5099 8878 9340 7508 4006"],
        ["7505 4000 1025 0865 4099 8582 9540 7010 5505 8512"],
    ],
    1: [
        ["5000 5050 5099"],
        ["5000 5050 5099"],
        ["5500 4850 4699"],
        ["3020 5500 5500 5550 5599"],
        ["2519 5500 5500 5599", "2599 8098"],
    ],
    2: [
        ["0825 2504 5500 8520 7550 3580 0597 0597 5095 9597"],
        ["1022 4500 8518 7555 3088 1088 1878 4092 9590"],
        ["1010 8508 8508 4555 0898 0898 9597"],
    ],
    3: [
        ["1012 5000 8518 7542 4048 4048 8560 8585 5099 0888"],
        ["1002 8502 8502 4540 4540 8555 8885 5099 1090"],
        ["1015 4500 8018 6042 3545 5050 8860 8588 4599 0885"],
    ],
    4: [
        ["1505 1255 1255 9052", "7500 7299"],
        ["9065 0565 0565 6500 6500 6599"],
        ["2002 1048 3058 8550", "8005 7550 6899"],
        ["2500 1248 1248 4856 8052", "8500 7250 6099"],
    ],
    5: [
        ["1805 1545 5038 8858 8085 4599 0890", "1805 8802"],
        ["8503 2005 2005 1545 6040 8870 5599 1092"],
        ["8000 3012 2038 6550 8072 5098 1092"],
    ],
    6: [
        ["6500 2530 0870 4099 8580 7055 3055 1075"],
        ["5500 2545 1080 5099 8875 5058 1878"],
        ["7005 3020 0860 2595 7590 8565 5052 2072"],
    ],
    7: [
        ["0808 9003 9003 5550 4099"],
        ["0815 1005 1005 9003 9003 5599"],
        ["0808 5010 9205 9205 7035 5599"],
        ["0505 8806 8806 6040 5099", "2550 8048"],
    ],
    8: [
        ["8512 5000 1520 4545 8572 5099 1275 5045 8820 7505"],
        ["5000 2022 5046 8022 5000", "5046 1072 5099 8872 5046"],
        ["7510 4000 1822 7560 7090 3095 1570 6540 8515 7005"],
    ],
    9: [
        ["8525 5000 1225 4550 8520 8520 8560 8099"],
        ["8522 5000 1228 4552 8520 8860 7590 3599"],
        ["7530 8010 4002 1230 4050 7525 7525 6599"],
    ],
}


def draw(digit: int, rng: np.random.Generator) -> Image.Image:
    """Draw a digit, black on white, on a sheet of SIZE x SIZE pixels: an image of mode "L"."""
    slant = rng.normal(-0.1, 0.25)  # columns per row; a negative one leans right, as most people write
    pen = rng.uniform(0.05, 0.17)  # its width as a share of the digit's height
    height = SIZE * rng.uniform(0.5, 0.75)
    width = height * rng.uniform(0.45, 0.85)
    turn = rng.normal(0, 0.08)
    shape = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) @ [[1, slant], [0, 1]]
    middle = SIZE / 2 + rng.uniform(-0.08, 0.08, 2) * SIZE
    bend, phase = rng.normal(0, 0.03, (2, 2)), rng.uniform(0, 2 * np.pi, (2, 2))

    sheet = Image.new("L", (2 * SIZE, 2 * SIZE), 255)  # twice as large, then shrunk: smooth edges
    pencil, radius = ImageDraw.Draw(sheet), pen * height
    ways = WAYS[digit]
    for stroke in ways[rng.integers(len(ways))]:
        points = np.array([(int(point[:2]), int(point[2:])) for point in stroke.split()]) / 99 - 0.5
        corner = np.r_[False, (points[1:] == points[:-1]).all(axis=1)]
        stray = rng.normal(0, 0.025, points.shape)
        stray[corner] = stray[np.flatnonzero(corner) - 1]  # both points of a corner stray together
        line = curve(points + stray)
        line = line + (bend * np.sin(4 * line[:, None, ::-1] + phase)).sum(axis=2)  # the whole sheet is bent a little
        line = 2 * (line * (width, height) @ shape.T + middle)
        pencil.line([tuple(point) for point in line], fill=0, width=round(2 * radius), joint="curve")
        for x, y in line[[0, -1]]:  # a round pen
            pencil.ellipse((x - radius, y - radius, x + radius, y + radius), fill=0)
    return sheet.resize((SIZE, SIZE), Image.Resampling.BOX)


def png(picture: Image.Image) -> bytes:
    """Return the bytes of a PNG file that holds the picture."""
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def curve(points: np.ndarray, steps: int = 12) -> np.ndarray:
    """Return a smooth line through points of shape (n, 2): Catmull and Rom's spline."""
    before, start, end, after = (
        np.vstack([points[:1], points, points[-1:]])[i : i + len(points) - 1] for i in range(4)
    )
    t = np.linspace(0, 1, steps)[:, None, None]
    line = start + (end - before) * t / 2 + (before - 2.5 * start + 2 * end - after / 2) * t**2
    line = line + (1.5 * start - 1.5 * end + (after - before) / 2) * t**3
    return line.swapaxes(0, 1).reshape(-1, 2)
