import json
import time

import numpy as np
import pytest

import model
import train


def test_the_model_gets_98_percent_of_the_held_out_digits_right(model_dir):
    _, rows, _, labels = train.load_split()
    accuracy = np.mean(model.load(model_dir).predict(rows).argmax(axis=1) == labels)
    assert len(rows) == 450
    assert accuracy >= 0.98
    assert json.loads((model_dir / "manifest.json").read_text())["held_out_accuracy"] == pytest.approx(accuracy)


@pytest.mark.parametrize(
    "change",
    [
        {"slant": 0.35},
        {"slant": -0.35},
        {"rotate": 0.25},
        {"rotate": -0.25},
        {"stroke": 1},
        {"stroke": -1},
        {"zoom": (0.8, 0.8)},
        {"shift": (0.5, 0.5)},
    ],
    ids=str,
)
def test_it_still_gets_90_percent_right_when_the_hand_changes(model_dir, change):
    _, rows, _, labels = train.load_split()
    redrawn = np.stack([train.warp(row, **change) for row in rows])
    assert np.mean(model.load(model_dir).predict(redrawn).argmax(axis=1) == labels) >= 0.9


def test_the_held_out_quarter_is_stratified_and_never_trained_on():
    train_rows, test_rows, _, test_labels = train.load_split()
    assert set(np.bincount(test_labels)) <= set(range(43, 47))
    seen = {row.tobytes() for row in train_rows}
    assert not any(row.tobytes() in seen for row in test_rows)


def test_warping_by_nothing_changes_nothing():
    row = train.load_split()[0][0]
    assert np.array_equal(train.warp(row), row)


def test_a_shift_of_one_pixel_moves_the_ink_down_and_right():
    row = np.zeros((8, 8), dtype=np.float32)
    row[3, 3] = 16
    assert np.unravel_index(train.warp(row.ravel(), shift=(1, 1)).argmax(), (8, 8)) == (4, 4)


def test_warped_digits_are_rows_of_features_too():
    train_rows, _, train_labels, _ = train.load_split()
    rows, labels = train.augment(train_rows[:50], train_labels[:50], copies=3)
    assert rows.shape == (200, 64)
    assert rows.dtype == np.float32
    assert labels.tolist() == train_labels[:50].tolist() * 4
    assert rows.min() >= 0 and rows.max() <= 16


def test_drawn_digits_are_rows_of_features_too():
    rows, labels = train.draw(3)
    assert rows.shape == (30, 64)
    assert rows.dtype == np.float32
    assert labels.tolist() == [digit for digit in range(10) for _ in range(3)]
    assert rows.min() >= 0 and rows.max() <= 16
    assert np.array_equal(rows, train.draw(3)[0])


def test_the_model_is_small_and_fast_and_knows_how_sure_it_is(model_dir):
    assert all((model_dir / name).stat().st_size < 5e6 for name in model.FILES.values())
    predict = model.load(model_dir).predict
    row = train.load_split()[1][:1]
    durations = []
    for _ in range(100):
        start = time.perf_counter()
        probabilities = predict(row)
        durations.append(time.perf_counter() - start)
    assert probabilities.shape == (1, 10)
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert np.median(durations) < 0.001  # seconds
