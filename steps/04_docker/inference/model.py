"""Save a classifier as a pickle and as ONNX, with a manifest that describes both; load either if it is as described."""

import hashlib
import io
import json
import os
import platform
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from schemas import FEATURES

# scikit-learn and the ONNX libraries are imported where they are used: serving needs one or the other, not both.

TOLERANCE = 1e-4  # of a golden probability: processors, and the two formats, differ in the last bits of a float32
FILES = {"pickle": "model.pkl", "onnx": "model.onnx"}
OTHER_VERSION = (
    "model.pkl was saved by scikit-learn {}, and this is {}: "
    "install that version or run `python train.py`, then restart"
)


class ModelError(Exception):
    """The model cannot be served. The message says why and what to do about it."""


@dataclass(frozen=True)
class Model:
    """A verified model. `predict` takes float32 rows of shape (n, 64) and returns probabilities, float32 (n, 10)."""

    predict: Callable[[np.ndarray], np.ndarray]
    classes: np.ndarray
    version: str  # the head of the file's SHA-256
    format: str

    @property
    def info(self) -> dict[str, str]:
        return {"version": self.version, "format": self.format}


def save(classifier, folder: Path, *, accuracy: float, golden_rows: np.ndarray) -> None:
    """Write model.pkl, model.onnx and manifest.json into `folder`, replacing what was there.

    `golden_rows`, float32 of shape (n, 64), go into the manifest with the probabilities that `classifier` gives them
    now; both files have to give them again when they are loaded. TypeError if the classes are not whole numbers, which
    is what the replies hold.
    """
    import joblib
    import sklearn
    from skl2onnx import to_onnx

    if classifier.classes_.dtype.kind not in "iu":
        raise TypeError(f"the classes must be whole numbers, not {classifier.classes_.tolist()[:3]}: number them")
    pickled = io.BytesIO()
    joblib.dump(classifier, pickled)
    # zipmap=False: probabilities as one array, not as a dictionary a row. Opset 17 runs from onnxruntime 1.13 on.
    exported = to_onnx(classifier, golden_rows[:1], options={"zipmap": False}, target_opset=17)
    contents = {"pickle": pickled.getvalue(), "onnx": exported.SerializeToString()}
    manifest = {
        "sha256": {format: hashlib.sha256(content).hexdigest() for format, content in contents.items()},
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scikit_learn": sklearn.__version__,
        "feature_names": [f"pixel_{row}_{column}" for row in range(8) for column in range(8)],
        "classes": classifier.classes_.tolist(),
        "held_out_accuracy": accuracy,
        "golden": {
            "features": golden_rows.tolist(),
            "prediction": classifier.predict(golden_rows).tolist(),
            "probabilities": classifier.predict_proba(golden_rows).tolist(),
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    for format, content in contents.items():
        _replace(folder / FILES[format], content)
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in manifest.items())
    _replace(folder / "manifest.json", f"{{\n{lines}\n}}\n".encode())


def load(folder: Path, format: str = "pickle") -> Model:
    """Return the model in `folder`, verified: hash before anything opens it, then versions, then golden answers.

    The hash finds damage and a swapped file. It is no defence against somebody who can also write the manifest:
    keep that where only you can, or sign it.

    Raises ModelError if the model is missing, is not the one in the manifest, or does not answer as it did. Clients
    get to read its message, so that names no folder; its __cause__ may.
    """
    name = FILES[format]
    try:
        manifest = json.loads(_read(folder / "manifest.json"))
        expected_hash, classes = manifest["sha256"][format], np.array(manifest["classes"])
        versions = [manifest[name] for name in ("scikit_learn", "python", "numpy")]
        golden_rows = np.array(manifest["golden"]["features"], dtype=np.float32).reshape(-1, FEATURES)
        golden_answers = np.array(manifest["golden"]["prediction"])
        golden_probabilities = np.array(manifest["golden"]["probabilities"], dtype=np.float32).reshape(-1, len(classes))
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
        raise ModelError("manifest.json is damaged: run `python train.py`, then restart") from error
    content = _read(folder / name)

    # Hash the very bytes that are opened next: unpickling runs whatever code a pickle asks for.
    if hashlib.sha256(content).hexdigest() != expected_hash:
        raise ModelError(
            f"{name} is not the file that manifest.json describes (its SHA-256 differs), so it was not opened: "
            "restore it from a copy that you trust, then restart"
        )
    try:
        predict = _unpickle(content, versions[0]) if format == "pickle" else _open_onnx(content)
        probabilities = predict(golden_rows)
        same = np.allclose(probabilities, golden_probabilities, rtol=0, atol=TOLERANCE)
        same = same and np.array_equal(classes[probabilities.argmax(axis=1)], golden_answers)
    except ModelError:
        raise
    except Exception as error:  # a pickle can fail in any way there is
        raise ModelError(
            f"{name} does not work here ({type(error).__name__}): run `python train.py`, then restart"
        ) from error

    if not same or probabilities.shape != golden_probabilities.shape or not len(golden_rows):
        raise ModelError(
            f"{name} no longer gives the golden rows in manifest.json the answers it gave after training "
            "(with Python {1}, NumPy {2}): install those or run `python train.py`, then restart".format(*versions)
        )
    return Model(predict, classes, expected_hash[:12], format)


def _unpickle(content: bytes, saved_by: str) -> Callable[[np.ndarray], np.ndarray]:
    # Rows are few and small. Handing parts of them to other threads costs more than it saves, for linear algebra as for
    # the trees of a forest, and takes the cores that other workers need. OpenMP reads this when it is loaded.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import joblib
    import sklearn
    from sklearn.exceptions import InconsistentVersionWarning
    from threadpoolctl import threadpool_limits

    if saved_by != sklearn.__version__:  # an attempt could fail before scikit-learn gets to warn
        raise ModelError(OTHER_VERSION.format(saved_by, sklearn.__version__))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", InconsistentVersionWarning)
            classifier = joblib.load(io.BytesIO(content))
    except InconsistentVersionWarning as warning:
        saved_by = warning.original_sklearn_version
        raise ModelError(OTHER_VERSION.format(saved_by, sklearn.__version__)) from warning

    threadpool_limits(1, user_api="blas")
    many = [name for name in classifier.get_params() if name.endswith("n_jobs")]  # those of steps in a pipeline, too
    classifier.set_params(**dict.fromkeys(many, 1))
    return lambda rows: classifier.predict_proba(rows).astype(np.float32, copy=False)


def _open_onnx(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # for the same reason
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda rows: session.run(["probabilities"], {"X": rows})[0]


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
