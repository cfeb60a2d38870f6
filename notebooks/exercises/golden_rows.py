"""Which ten rows notice that a model has changed?"""

from copy import deepcopy
from functools import cache
from warnings import catch_warnings, simplefilter

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

notebook = "00_train_and_pickle"
minutes = 15
hints = [
    "A pixel without ink is 0, and 0 times a changed weight is still 0. So each pixel needs a row that has ink there.",
    "A probability of 0.99999 hardly moves, whatever you do to the model. Which rows have probabilities that can move?",
    "Keep the rows with `probabilities.max(axis=1) < 0.9`. Then choose one after the other: always the row with most "
    "pixels and likely digits (`probabilities > 0.05`) that no row chosen before has.",
]


def stub(rows, probabilities):
    """Return at most ten of the rows. `probabilities`, of shape (n, 10), are what the model says of the n rows."""
    return rows[:1]


def solution(rows, probabilities):
    """A golden row notices a change if its answer depends on what has changed, and can still move.

    A pixel without ink takes no part in the answer, and an answer of 0.99999 stays where it is. So only rows count of
    which the model is unsure, and they are chosen so that together they have ink in all pixels, and all digits.
    """
    unsure = probabilities.max(axis=1) < 0.9
    has = np.hstack([rows > 0, probabilities > 0.05])[unsure]
    chosen = []
    for _ in range(10):
        new = has & ~has[chosen].any(axis=0)
        chosen.append(new.sum(axis=1).argmax())
    return rows[unsure][chosen]


def all_of_them(rows, probabilities):
    return rows


def a_blank_one(rows, probabilities):
    return np.zeros((1, 64))


def the_first_ten(rows, probabilities):
    return rows[:10]


def the_surest(rows, probabilities):
    return rows[probabilities.max(axis=1).argsort()[-10:]]


wrong = [
    (all_of_them, "at every start"),
    (a_blank_one, "pixel"),
    (the_first_ten, "readier"),
    (the_surest, "so sure"),
]


@cache
def trained():
    """A small model, rows that it has not seen, and the pixels in which at least one row of ten has ink."""
    rows, labels = load_digits(return_X_y=True)
    with threadpool_limits(1), catch_warnings():
        simplefilter("ignore")  # thirty epochs are enough
        model = MLPClassifier((32,), max_iter=30, random_state=0).fit(rows[:1000], labels[:1000])
    return model, rows[1000:], np.flatnonzero((rows > 0).mean(axis=0) >= 0.1)


def changes(model, pixels):
    """Models with a small change each, and what was changed."""
    for pixel in pixels:
        changed = deepcopy(model)
        changed.coefs_[0][pixel] += 0.05
        yield "pixel", pixel, changed
    for digit in range(10):
        changed = deepcopy(model)
        changed.intercepts_[-1][digit] += 0.05
        yield "digit", digit, changed


def check(golden_rows):
    model, rows, pixels = trained()
    golden = np.asarray(golden_rows(rows.copy(), model.predict_proba(rows)))
    if golden.ndim != 2 or golden.shape[1] != 64 or not len(golden):
        return f"return rows, an array of shape (n, 64): yours has the shape {golden.shape}."
    if len(golden) > 10:
        return f"{len(golden)} rows would be predicted at every start, and stand in the manifest: choose ten at most."
    before = model.predict_proba(golden)
    missed = [
        (kind, which)
        for kind, which, changed in changes(model, pixels)
        if np.abs(changed.predict_proba(golden) - before).max() <= 1e-4
    ]
    if len(missed) > len(pixels):
        return f"they miss {len(missed)} changes. The model is so sure of your rows that no small change moves it."
    for kind, which in missed:
        if kind == "pixel":
            return f"they miss {len(missed)} changes, the first one in the weights of pixel {which}."
        return f"they miss {len(missed)} changes: after the first one, the model is readier to answer {which}."
    if not all((rows == row).all(axis=1).any() for row in golden):
        return "some of your rows are none of those that you were given: choose real ones."
    return ""
