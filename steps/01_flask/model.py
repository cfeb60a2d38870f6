"""Save a classifier with a manifest that describes it, and load it only if it is what the manifest says."""

import hashlib
import io
import json
import platform
import warnings
from pathlib import Path

import joblib
import numpy as np
import sklearn
from sklearn.exceptions import InconsistentVersionWarning

FEATURES = 64  # 8x8 pixels, row-major
TOLERANCE = 1e-4  # of a golden probability: processors differ in the last bits of a float32
OTHER_VERSION = (
    "model.pkl was saved by scikit-learn {}, and this is {}: "
    "install that version or run `python train.py`, then restart"
)


class ModelError(Exception):
    """The model cannot be served. The message says why and what to do about it."""


def save(classifier, folder: Path, *, accuracy: float, golden_rows: np.ndarray) -> None:
    """Write model.pkl and manifest.json into `folder`, replacing what was there.

    `golden_rows`, of shape (n, 64), go into the manifest with the probabilities that `classifier` gives them now.
    """
    pickled = io.BytesIO()
    joblib.dump(classifier, pickled)
    manifest = {
        "sha256": hashlib.sha256(pickled.getvalue()).hexdigest(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scikit_learn": sklearn.__version__,
        "feature_names": [f"pixel_{row}_{column}" for row in range(8) for column in range(8)],
        "classes": classifier.classes_.tolist(),
        "held_out_accuracy": accuracy,
        "golden": {
            "features": golden_rows.tolist(),
            "probabilities": classifier.predict_proba(golden_rows).tolist(),
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "model.pkl", pickled.getvalue())
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in manifest.items())
    _replace(folder / "manifest.json", f"{{\n{lines}\n}}\n".encode())


def load(folder: Path):
    """Return the classifier in `folder`, verified: hash before unpickling, then versions, then golden answers.

    The hash finds damage and a swapped file. It is no defence against somebody who can also write the manifest:
    keep that where only you can, or sign it.

    Raises ModelError if the model is missing, is not the one in the manifest, or does not answer as it did. Clients
    get to read its message, so that names no folder; its __cause__ may.
    """
    try:
        manifest = json.loads(_read(folder / "manifest.json"))
        expected_hash, saved_by = manifest["sha256"], manifest["scikit_learn"]
        trained_with = f"Python {manifest['python']} and NumPy {manifest['numpy']}"
        golden_rows = np.array(manifest["golden"]["features"], dtype=np.float32).reshape(-1, FEATURES)
        golden_probabilities = np.array(manifest["golden"]["probabilities"], dtype=np.float32)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError("manifest.json is damaged: run `python train.py`, then restart") from error
    pickled = _read(folder / "model.pkl")

    # Hash the very bytes that are unpickled next: unpickling runs whatever code a pickle asks for.
    if hashlib.sha256(pickled).hexdigest() != expected_hash:
        raise ModelError(
            "model.pkl is not the file that manifest.json describes (its SHA-256 differs), so it was not opened: "
            "restore it from a copy that you trust, then restart"
        )
    if saved_by != sklearn.__version__:  # an attempt could fail before scikit-learn gets to warn
        raise ModelError(OTHER_VERSION.format(saved_by, sklearn.__version__))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", InconsistentVersionWarning)
            classifier = joblib.load(io.BytesIO(pickled))
        probabilities = classifier.predict_proba(golden_rows)
    except InconsistentVersionWarning as warning:
        saved_by = warning.original_sklearn_version
        raise ModelError(OTHER_VERSION.format(saved_by, sklearn.__version__)) from warning
    except Exception as error:  # a pickle can fail in any way there is
        raise ModelError(
            f"model.pkl does not work here ({type(error).__name__}): run `python train.py`, then restart"
        ) from error

    if probabilities.shape != golden_probabilities.shape or not np.allclose(
        probabilities, golden_probabilities, rtol=0, atol=TOLERANCE
    ):
        raise ModelError(
            "model.pkl no longer gives the golden rows in manifest.json the answers it gave after training "
            f"(with {trained_with}): install those or run `python train.py`, then restart"
        )
    return classifier


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
