"""Save a model with a manifest that describes it. Load it only if it is what its manifest and contract.py say."""

import hashlib
import io
import json
import platform
import warnings
from pathlib import Path
from typing import Protocol

import joblib
import numpy as np
import sklearn
from sklearn.exceptions import InconsistentVersionWarning

import contract

FEATURE_NAMES = (
    [f"feature_{place}" for place in range(contract.FEATURES)]
    if isinstance(contract.FEATURES, int)
    else contract.FEATURES
)
TOLERANCE = 1e-4  # of the largest golden answer: processors differ in the last bits of a float32
OTHER_VERSION = (
    "model.pkl was saved by scikit-learn {}, and this is {}: "
    "install that version or run `python train.py`, then restart"
)


class ModelError(Exception):
    """The model cannot be saved or served. The message says why and what to do about it."""


class Estimator(Protocol):
    """A trained scikit-learn model: a classifier, a regressor, or a Pipeline that ends in one."""

    def predict(self, rows: np.ndarray, /) -> np.ndarray: ...


def save(estimator: Estimator, folder: Path, *, accuracy: float, golden_rows: np.ndarray) -> str:
    """Write model.pkl and manifest.json into `folder`, replacing what was there.

    `accuracy` is what `estimator.score` gives on held-out rows: for a regressor, that is R². `golden_rows`, of shape
    (n, features), go into the manifest as float32 with the answers that the estimator gives them now.

    Returns the names of the files. Raises ModelError if the estimator is not what contract.py says, or if another
    program could not unpickle it.
    """
    golden_rows = np.asarray(golden_rows, np.float32)
    classes = np.asarray(estimator.classes_).tolist() if hasattr(estimator, "classes_") else None
    trained_on = getattr(estimator, "feature_names_in_", None)  # the names of columns, if its rows had any
    names = None if trained_on is None or isinstance(contract.FEATURES, int) else trained_on.tolist()
    _check_contract(getattr(estimator, "n_features_in_", len(FEATURE_NAMES)), classes, names)
    pickled = io.BytesIO()
    joblib.dump(estimator, pickled)
    if b"__main__" in pickled.getvalue():
        raise ModelError("the model uses a class or function defined in train.py: move it to a module of its own")
    manifest = {
        "sha256": hashlib.sha256(pickled.getvalue()).hexdigest(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scikit_learn": sklearn.__version__,
        "kind": "regressor" if classes is None else "classifier",
        "feature_names": FEATURE_NAMES,
        "classes": classes,
        "held_out_accuracy": accuracy,
        "golden": {"features": golden_rows.tolist(), "answers": _answer(estimator, golden_rows).tolist()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "model.pkl", pickled.getvalue())
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in manifest.items())
    _replace(folder / "manifest.json", f"{{\n{lines}\n}}\n".encode())
    return "model.pkl and manifest.json"


def load(folder: Path) -> Estimator:
    """Return the model in `folder`, verified: contract, then hash, then versions, then golden answers.

    The hash finds damage and a swapped file. It does not stop an intruder who can also write the manifest: keep the
    folder where only you can write, or sign it.

    Raises ModelError if the model is missing, is not the one in the manifest, does not fit contract.py, or does not
    answer as it did after training. Clients can read its message, so the message names no folder. Its __cause__ may.
    """
    try:
        manifest = json.loads(_read(folder / "manifest.json"))
        expected_hash, saved_by = manifest["sha256"], manifest["scikit_learn"]
        trained_with = f"Python {manifest['python']} and NumPy {manifest['numpy']}"
        names, golden = manifest["feature_names"], manifest["golden"]
        _check_contract(len(names), manifest["classes"], names)
        golden_rows = np.array(golden["features"], dtype=np.float32).reshape(-1, len(names))
        golden_answers = np.array(golden["answers"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError("manifest.json is damaged: run `python train.py`, then restart") from error
    pickled = _read(folder / "model.pkl")

    # Hash the very bytes that are unpickled next: unpickling runs whatever code a pickle asks for.
    if hashlib.sha256(pickled).hexdigest() != expected_hash:
        raise ModelError(
            "model.pkl is not the file that manifest.json describes (its SHA-256 differs), so it was not opened: "
            "restore it from a copy that you trust, then restart"
        )
    if saved_by != sklearn.__version__:  # compared first: unpickling could fail before scikit-learn warns
        raise ModelError(OTHER_VERSION.format(saved_by, sklearn.__version__))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", InconsistentVersionWarning)
            estimator: Estimator = joblib.load(io.BytesIO(pickled))
        same = _agree(_answer(estimator, golden_rows), golden_answers)
    except InconsistentVersionWarning as warning:
        saved_by = warning.original_sklearn_version
        raise ModelError(OTHER_VERSION.format(saved_by, sklearn.__version__)) from warning
    except Exception as error:  # unpickling can raise anything
        raise ModelError(
            f"model.pkl does not work here ({type(error).__name__}): run `python train.py`, then restart"
        ) from error

    if not same:
        raise ModelError(
            "model.pkl no longer gives the golden rows in manifest.json the answers it gave after training "
            f"(with {trained_with}): install those or run `python train.py`, then restart"
        )
    return estimator


def _check_contract(features: int, classes: list | None, names: list[str] | None = None) -> None:
    """Raise ModelError if a model with so many features, and these classes and names, is not what contract.py says."""
    if features != len(FEATURE_NAMES):
        difference = f"on {features:,} features, contract.py says {len(FEATURE_NAMES):,}"
    elif names and names != FEATURE_NAMES:
        place, name = next((place, name) for place, name in enumerate(names) if name != FEATURE_NAMES[place])
        difference = f"with {json.dumps(name)[:40]} as feature {place}, contract.py says {FEATURE_NAMES[place]!r}"
    elif classes != contract.CLASSES:
        trained, said = (
            "numbers (a regressor)" if each is None else f"the classes {json.dumps(each)[:60]}"
            for each in (classes, contract.CLASSES)
        )
        difference = f"on {trained}, contract.py says {said}"
    else:
        return
    raise ModelError(f"the model was trained {difference}: correct contract.py or train.py, then train and restart")


def _answer(estimator: Estimator, rows: np.ndarray) -> np.ndarray:
    """What is compared: probabilities of shape (n, classes) if the model gives them, else predictions."""
    return getattr(estimator, "predict_proba", estimator.predict)(rows)


def _agree(answers: np.ndarray, golden: np.ndarray) -> bool:
    if answers.shape != golden.shape or not len(golden):
        return False
    if answers.dtype.kind != "f":
        return np.array_equal(answers, golden)
    return np.allclose(answers, golden, rtol=0, atol=TOLERANCE * np.abs(golden).max())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path.name} cannot be read ({error.strerror}): run `python train.py`, then restart"
        ) from error


def _replace(path: Path, content: bytes) -> None:
    """Write a file in one step, so that nobody ever reads half of it."""
    part = path.with_suffix(".part")
    part.write_bytes(content)
    part.replace(path)
