"""A model in use, and the two formats that it is saved in: a pickle or ONNX."""

import io
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

import contract

# scikit-learn and the ONNX libraries are imported where they are used: serving needs one or the other, not both.

FILES = {"pickle": "model.pkl", "onnx": "model.onnx"}
CLASSES = None if contract.CLASSES is None else np.array(contract.CLASSES)
OTHER_VERSION = (
    "model.pkl was saved by scikit-learn {}, and this is {}: "
    "install that version or run `python train.py`, then restart"
)
Compute = Callable[[np.ndarray], np.ndarray]  # rows to probabilities, or to predictions


class ModelError(Exception):
    """The model cannot be saved or served. The message says why and what to do about it."""


class AnswerError(Exception):
    """The model's answer cannot be sent to a client. The message says why."""


class Estimator(Protocol):
    """A trained scikit-learn model: a classifier, a regressor, or a Pipeline that ends in one."""

    def predict(self, rows: np.ndarray, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Model:
    """A model ready for use. It computes probabilities if it has them, else predictions."""

    compute: Compute
    classes: np.ndarray | None  # None: a regressor
    version: str  # the head of the file's SHA-256
    format: str
    has_probabilities: bool = True

    @property
    def info(self) -> dict[str, str]:
        return {"version": self.version, "format": self.format}

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Return one array for float32 rows of shape (n, features). decode() reads it, or any part of it.

        It holds probabilities, float32 (n, classes). A model without them gives predictions (n,): classes, or float32
        from a regressor. Raises AnswerError if a number in it is not finite.
        """
        output = self.compute(rows)
        if not is_finite(output):
            raise AnswerError(
                "the model answered with a number that is not finite: it cannot be used on these features"
            )
        return output

    def decode(self, output: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return predictions (n,) and probabilities (n, classes), or None, from what predict() returned."""
        if self.classes is None or output.ndim == 1:
            return output, None
        return self.classes[output.argmax(axis=1)], output

    def answer(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return predictions (n,) and probabilities (n, classes), or None, for float32 rows of shape (n, features)."""
        return self.decode(self.predict(rows))


def write_pickle(estimator: Estimator) -> bytes:
    """Raises ModelError if only train.py could unpickle it."""
    import joblib

    pickled = io.BytesIO()
    joblib.dump(estimator, pickled)
    if b"__main__" in pickled.getvalue():
        raise ModelError("the model uses a class or function defined in train.py: move it to a module of its own")
    return pickled.getvalue()


def write_onnx(estimator: Estimator, row: np.ndarray, has_probabilities: bool) -> bytes:
    """Convert a model that takes rows like `row`, float32 of shape (1, features). It can fail in any way."""
    from skl2onnx import to_onnx

    # zipmap=False: probabilities as one array, not as a dictionary for each row
    options = {"zipmap": False} if has_probabilities else None
    return to_onnx(estimator, row, options=options, target_opset=17).SerializeToString()  # from onnxruntime 1.13 on


def open_pickle(content: bytes, has_probabilities: bool, saved_by: str) -> Compute:
    """Raises ModelError if another scikit-learn than this one has saved it."""
    # Rows are few and small. Sharing them out to other threads costs more than it saves, for linear algebra as for the
    # trees of a forest, and takes the cores that other workers need. OpenMP reads this when it is loaded.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import joblib
    import sklearn
    from sklearn.exceptions import InconsistentVersionWarning
    from threadpoolctl import threadpool_limits

    if saved_by != sklearn.__version__:  # compared first: unpickling could fail before scikit-learn warns
        raise ModelError(OTHER_VERSION.format(saved_by, sklearn.__version__))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", InconsistentVersionWarning)
            estimator = joblib.load(io.BytesIO(content))
    except InconsistentVersionWarning as warning:
        saved_by = warning.original_sklearn_version
        raise ModelError(OTHER_VERSION.format(saved_by, sklearn.__version__)) from warning

    threadpool_limits(1, user_api="blas")
    if hasattr(estimator, "get_params"):  # a model of one's own may have none
        many = [name for name in estimator.get_params() if name.endswith("n_jobs")]  # in the steps of a Pipeline, too
        estimator.set_params(**dict.fromkeys(many, 1))
    return use_estimator(estimator, has_probabilities)


def open_onnx(content: bytes, has_probabilities: bool) -> Compute:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # for the same reason
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    output = session.get_outputs()[1 if has_probabilities else 0].name
    return lambda rows: _as_contract(session.run([output], {"X": rows})[0])


def use_estimator(estimator: Estimator, has_probabilities: bool) -> Compute:
    ask = getattr(estimator, "predict_proba" if has_probabilities else "predict")
    return lambda rows: _as_contract(ask(rows))


def _as_contract(output: np.ndarray) -> np.ndarray:
    """The same types from every format: classes as in CLASSES, every other number as float32."""
    if CLASSES is not None and output.ndim == 1:
        return output.astype(CLASSES.dtype, copy=False)
    if CLASSES is None:
        output = output.reshape(len(output))  # some regressors answer (n, 1)
    with np.errstate(over="ignore"):  # a number too large becomes infinite, and Model.predict reports it
        return np.ascontiguousarray(output, np.float32)  # GaussianNB answers column by column: orjson writes rows


def is_finite(output: np.ndarray) -> bool:
    return output.dtype.kind != "f" or bool(np.isfinite(output).all())
