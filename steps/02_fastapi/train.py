"""Train the digit classifier and save it: python train.py

Writes the model and its manifest into the folder model/ (another if MODEL_DIR says so). Takes about fifteen seconds.
"""

import os
import sys
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

import model
import strokes

SEED = 0
COPIES = 15  # warped copies of every training image
DRAWN = 700  # more images of every digit, drawn from strokes


def load_split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Split the UCI digits, a stratified quarter held out.

    Returns (train rows, test rows, train labels, test labels); rows are float32 of shape (n, 64), ink in 0..16.
    """
    rows, labels = load_digits(return_X_y=True)
    return train_test_split(rows.astype(np.float32), labels, test_size=0.25, stratify=labels, random_state=SEED)


def to_bitmap(row: np.ndarray) -> np.ndarray:
    """Guess the 32x32 bitmap that a row of shape (64,) was counted from: 0 or 1, as float, of shape (32, 32).

    UCI cut a bitmap into 4x4 blocks and counted the inked pixels in each. In each block we ink that many pixels:
    those nearest to the ink of the blocks around it.
    """
    nearness = ndimage.zoom(row.reshape(8, 8), 4, order=1, grid_mode=True, mode="grid-constant")
    blocks = nearness.reshape(8, 4, 8, 4).swapaxes(1, 2).reshape(64, 16)
    rank = blocks.argsort(axis=1, kind="stable").argsort(axis=1)
    inked = rank >= 16 - row[:, None]
    return inked.reshape(8, 8, 4, 4).swapaxes(1, 2).reshape(32, 32).astype(float)


def to_row(bitmap: np.ndarray) -> np.ndarray:
    """Count the ink in each 4x4 block of a bitmap of shape (32, 32): a row of shape (64,), whole numbers 0..16."""
    return bitmap.reshape(8, 4, 8, 4).sum(axis=(1, 3)).round().clip(0, 16).ravel()


def warp(
    row: np.ndarray,
    *,
    rotate: float = 0,
    slant: float = 0,
    zoom: ArrayLike = (1, 1),
    shift: ArrayLike = (0, 0),
    stroke: float = 0,
) -> np.ndarray:
    """Redraw one digit of shape (64,) as another person might write it.

    `rotate` is in radians; `slant` in columns per row; `zoom` and `shift` are (down, across), the shift in pixels
    of the 8x8 grid; `stroke` runs from -1 (a line thinner by two bitmap pixels) to 1 (thicker by two).
    """
    bitmap = to_bitmap(row)
    edge = ndimage.grey_dilation(bitmap, 3) if stroke > 0 else ndimage.grey_erosion(bitmap, 3)
    bitmap += abs(stroke) * (edge - bitmap)
    cos, sin = np.cos(rotate), np.sin(rotate)
    matrix = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, 0], [slant, 1]]) @ np.diag(1 / np.asarray(zoom))
    centre = np.array([15.5, 15.5])
    offset = centre - matrix @ (centre + 4 * np.asarray(shift))
    return to_row(ndimage.affine_transform(bitmap, matrix, offset, order=1))


def augment(rows: np.ndarray, labels: np.ndarray, copies: int, seed: int = SEED) -> tuple[np.ndarray, np.ndarray]:
    """Append `copies` randomly warped copies of every row: 13 people wrote this set, and others write differently."""
    rng = np.random.default_rng(seed)
    warped = [
        warp(
            row,
            rotate=rng.normal(0, 0.15),
            slant=rng.normal(0, 0.2),
            zoom=rng.uniform(0.8, 1.1, 2),
            shift=rng.uniform(-0.8, 0.8, 2),
            stroke=rng.uniform(-1, 1),
        )
        for row in np.tile(rows, (copies, 1))
    ]
    return np.vstack([rows, *warped]).astype(np.float32), np.tile(labels, copies + 1)


def draw(number: int, seed: int = SEED) -> tuple[np.ndarray, np.ndarray]:
    """Draw `number` rows of each digit in its several shapes: warping never turns one shape of a 7 into another."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(10), number)
    return np.array([to_row(strokes.draw(int(digit), rng)) for digit in labels], np.float32).reshape(-1, 64), labels


def train(rows: np.ndarray, labels: np.ndarray) -> MLPClassifier:
    """Fit the classifier on rows of shape (n, 64) and their labels 0..9."""
    classifier = MLPClassifier((256, 128), max_iter=12, warm_start=True, random_state=SEED)
    # One thread: the matrices are small, and so the model does not depend on how many cores trained it.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is a budget, not a failure
        classifier.fit(rows, labels)
        # Then smaller steps, to settle: without them the last few batches decide what the model gets wrong.
        return classifier.set_params(learning_rate_init=1e-4, max_iter=4).fit(rows, labels)


def main() -> None:
    folder = Path(os.environ.get("MODEL_DIR") or Path(__file__).parent / "model")
    train_rows, test_rows, train_labels, test_labels = load_split()
    rows, labels = augment(train_rows, train_labels, COPIES)
    drawn_rows, drawn_labels = draw(DRAWN)
    print(f"training on {len(rows):,} rows ({len(train_rows):,} digits and {COPIES} warped copies of each)")
    print(f"and on {len(drawn_rows):,} rows drawn from strokes")
    classifier = train(np.vstack([rows, drawn_rows]), np.concatenate([labels, drawn_labels]))
    accuracy = classifier.score(test_rows, test_labels)
    print(f"accuracy on {len(test_rows)} held-out digits: {accuracy:.4f}")
    _, places = np.unique(test_labels, return_index=True)
    golden_rows = test_rows[places[:10]]  # ten different answers
    saved = model.save(classifier, folder, accuracy=accuracy, golden_rows=golden_rows)
    here = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    print(f"saved in {here}: {saved}")


if __name__ == "__main__":
    try:
        main()
    except model.ModelError as error:
        sys.exit(str(error))
