import numpy as np
import pytest
from PIL import Image, ImageDraw

import features
from features import v2

# A 3 as a row of the UCI set has it: the first 3 of scikit-learn's load_digits.
UCI_THREE = """
    0  0  7 15 13  1  0  0
    0  8 13  6 15  4  0  0
    0  2  1 13 13  0  0  0
    0  0  2 15 11  1  0  0
    0  0  0  1 12 12  1  0
    0  0  0  0  1 10  8  0
    0  0  8  4  5 14  9  0
    0  0  7 13 13  9  0  0
"""
FIVE = [(0.85, 0.0), (0.15, 0.0), (0.1, 0.45), (0.6, 0.4), (0.9, 0.65), (0.8, 0.9), (0.5, 1.0), (0.0, 0.9)]
ONE = [(0.5, 0.0), (0.5, 1.0)]


def ink(points=FIVE, *, size=280, box=(90, 50, 190, 230), pen=20, slant=0.0) -> np.ndarray:
    """A digit as a mouse draws it, lines through points of a box (left, top, right, bottom): shape (size, size)."""
    left, top, right, bottom = box
    middle = (top + bottom) / 2
    sheet = Image.new("L", (size, size))
    line = [(left + x * (right - left), top + y * (bottom - top)) for x, y in points]
    line = [(x - slant * (y - middle), y) for x, y in line]
    pencil = ImageDraw.Draw(sheet)
    pencil.line(line, fill=255, width=pen, joint="curve")
    for x, y in line:
        pencil.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), fill=255)
    return np.asarray(sheet, dtype=np.float32) / 255


def shrink(picture: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BOX))


def difference(one: np.ndarray, two: np.ndarray) -> float:
    """How much of 16 two rows differ in a block, on average."""
    return np.abs(v2(one) - v2(two)).mean()


@pytest.mark.parametrize("version", features.VERSIONS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 512), (512, 1), (3, 2), (28, 28), (300, 20), (512, 512)], ids=str)
@pytest.mark.parametrize("fill", ["full", "noise", "one pixel", "blank"])
def test_any_ink_becomes_64_whole_numbers_from_0_to_16(version, shape, fill):
    picture = np.zeros(shape, dtype=np.float32)
    if fill == "full":
        picture[:] = 1
    elif fill == "noise":
        picture[:] = np.random.default_rng(0).random(shape)
    elif fill == "one pixel":
        picture[shape[0] // 2, shape[1] // 3] = 1
    row = features.VERSIONS[version](picture)
    assert row.shape == (64,)
    assert np.issubdtype(row.dtype, np.integer)
    assert row.min() >= 0 and row.max() <= 16


def test_blank_paper_has_no_features():
    assert not v2(np.zeros((28, 28), dtype=np.float32)).any()


def test_a_digit_of_the_uci_set_comes_back_nearly_as_it_was():
    row = np.array(UCI_THREE.split(), dtype=int)
    blocks = np.arange(16).reshape(4, 4) < row.reshape(8, 8, 1, 1)  # as many pixels of each block as were counted
    bitmap = blocks.swapaxes(1, 2).reshape(32, 32).astype(np.float32)
    again = v2(bitmap)
    assert np.abs(again - row).mean() < 2.5
    assert np.corrcoef(again, row)[0, 1] > 0.85


def test_the_place_on_the_sheet_does_not_matter():
    moved = np.roll(ink(), (30, -70), axis=(0, 1))
    assert difference(ink(), moved) == 0


def test_the_size_of_the_writing_does_not_matter():
    small = ink(box=(10, 10, 60, 100), pen=10)
    assert difference(ink(), small) < 0.7


def test_the_size_of_the_picture_does_not_matter():
    small = shrink(ink(), 28)
    enlarged = np.asarray(Image.fromarray(small).resize((280, 280), Image.Resampling.BICUBIC)).clip(0, 1)
    blocks = np.kron(small, np.ones((10, 10), dtype=np.float32))
    assert difference(ink(), small) < 1
    assert difference(small, enlarged) < 0.7
    assert difference(small, blocks) < 0.7


@pytest.mark.parametrize("slant", [-0.5, -0.25, 0.25, 0.5])
def test_the_slant_of_the_hand_does_not_matter(slant):
    assert difference(ink(), ink(slant=slant)) < 1.2


@pytest.mark.parametrize("pen", [4, 8, 14, 28])
def test_the_width_of_the_pen_hardly_matters(pen):
    assert difference(ink(), ink(pen=pen)) < 1.5


def test_every_digit_gets_as_much_ink_as_the_uci_set_has():
    assert {int(v2(ink(points, pen=pen)).sum()) for points in (FIVE, ONE) for pen in (6, 20)} == {features.INK}


def test_a_wide_digit_fills_the_frame_from_top_to_bottom_and_leaves_its_sides_empty():
    grid = v2(ink(FIVE)).reshape(8, 8)
    assert grid[0].any() and grid[7].any()
    assert not grid[:, 0].any() and not grid[:, 7].any()


@pytest.mark.parametrize("slant", [0.0, 0.4])
def test_a_plain_one_stays_a_narrow_bar(slant):
    grid = v2(ink(ONE, slant=slant)).reshape(8, 8)
    assert grid[:, 3:5].sum() > 0.7 * grid.sum()
    assert grid[:, [0, 1, 6, 7]].sum() == 0


def test_a_faint_pencil_counts_as_a_pen_does():
    assert difference(ink(), 0.4 * ink()) == 0
