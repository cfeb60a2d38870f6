"""Save a model with a manifest that describes it. Load it only if it is what its manifest and contract.py say."""

import hashlib
import json
import platform
from pathlib import Path

import numpy as np

import contract
import formats
from formats import CLASSES, FILES, Estimator, Model, ModelError, is_finite

FEATURE_NAMES = (
    [f"feature_{place}" for place in range(contract.FEATURES)]
    if isinstance(contract.FEATURES, int)
    else contract.FEATURES
)
TOLERANCE = 1e-4  # of the largest golden answer: processors, and the two formats, differ in the last bits of a float32


def save(estimator: Estimator, folder: Path, *, accuracy: float, golden_rows: np.ndarray) -> str:
    """Write model.pkl, model.onnx if the model can be converted, and manifest.json into `folder`.

    `accuracy` is what `estimator.score` gives on held-out rows: for a regressor, that is R². `golden_rows`, of shape
    (n, features), go into the manifest as float32 with the answers that the estimator gives them now. Each file must
    give the same answers when it is loaded.

    Returns the names of the files, and why a format is not among them. Raises ModelError if the estimator is not what
    contract.py says, or if another program could not unpickle it.
    """
    import sklearn

    golden_rows = np.asarray(golden_rows, np.float32)
    classes = np.asarray(estimator.classes_).tolist() if hasattr(estimator, "classes_") else None
    trained_on = getattr(estimator, "feature_names_in_", None)  # the names of columns, if its rows had any
    names = None if trained_on is None or isinstance(contract.FEATURES, int) else trained_on.tolist()
    _check_contract(getattr(estimator, "n_features_in_", len(FEATURE_NAMES)), classes, names)
    predictions, probabilities = _ask(estimator, golden_rows)
    compute = formats.use_estimator(estimator, probabilities is not None)
    if not is_finite(predictions):
        raise ModelError("the model answers a golden row with a number that is not finite: correct train.py")
    golden = {
        "features": golden_rows.tolist(),
        "prediction": predictions.tolist(),
        "probabilities": None if probabilities is None else probabilities.tolist(),
    }
    if not _answers_as_before(Model(compute, CLASSES, "", "pickle"), golden):
        raise ModelError("the model's answer to a row is not one class or one number: correct train.py")
    contents, unsaved = {"pickle": formats.write_pickle(estimator)}, {}
    try:
        contents["onnx"] = formats.write_onnx(estimator, golden_rows[:1], probabilities is not None)
        converted = formats.open_onnx(contents["onnx"], probabilities is not None)
        if not _answers_as_before(Model(converted, CLASSES, "", "onnx"), golden):
            raise ValueError("it answers differently as ONNX")
    except Exception as error:  # a conversion can fail in any way
        contents.pop("onnx", None)
        unsaved["onnx"] = f"{type(error).__name__}: {error}".splitlines()[0][:150]
    manifest = {
        "sha256": {format: hashlib.sha256(content).hexdigest() for format, content in contents.items()},
        "unsaved": unsaved,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scikit_learn": sklearn.__version__,
        "kind": "regressor" if classes is None else "classifier",
        "feature_names": FEATURE_NAMES,
        "classes": classes,
        "held_out_accuracy": accuracy,
        "golden": golden,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for format, name in FILES.items():
        if format in contents:
            _replace(folder / name, contents[format])
        else:
            (folder / name).unlink(missing_ok=True)
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in manifest.items())
    _replace(folder / "manifest.json", f"{{\n{lines}\n}}\n".encode())
    saved = ", ".join(FILES[format] for format in contents) + " and manifest.json"
    return saved + "".join(f" (no {FILES[format]}: {reason})" for format, reason in unsaved.items())


def load(folder: Path, format: str = "pickle") -> Model:
    """Return the model in `folder`, verified: contract, then hash, then versions, then golden answers.

    The hash finds damage and a swapped file. It does not stop an intruder who can also write the manifest: keep the
    folder where only you can write, or sign it.

    Raises ModelError if the model is missing, is not the one in the manifest, does not fit contract.py, or does not
    answer as it did after training. Clients can read its message, so the message names no folder. Its __cause__ may.
    """
    name = FILES[format]
    try:
        manifest = json.loads(_read(folder / "manifest.json"))
        _check_contract(len(manifest["feature_names"]), manifest["classes"], manifest["feature_names"])
        if reason := manifest["unsaved"].get(format):
            raise ModelError(f"the model could not be saved as {name} ({reason}): serve it with another MODEL_FORMAT")
        expected_hash, golden = manifest["sha256"][format], manifest["golden"]
        saved_by, python, numpy = (manifest[key] for key in ("scikit_learn", "python", "numpy"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError("manifest.json is damaged: run `python train.py`, then restart") from error
    content = _read(folder / name)

    # Hash the very bytes that are opened next: unpickling runs whatever code a pickle asks for.
    if hashlib.sha256(content).hexdigest() != expected_hash:
        raise ModelError(
            f"{name} is not the file that manifest.json describes (its SHA-256 differs), so it was not opened: "
            "restore it from a copy that you trust, then restart"
        )
    try:
        has_probabilities = golden["probabilities"] is not None
        if format == "pickle":
            compute = formats.open_pickle(content, has_probabilities, saved_by)
        else:
            compute = formats.open_onnx(content, has_probabilities)
        model = Model(compute, CLASSES, expected_hash[:12], format, has_probabilities)
        same = _answers_as_before(model, golden)
    except ModelError:
        raise
    except Exception as error:  # unpickling can raise anything
        raise ModelError(
            f"{name} does not work here ({type(error).__name__}): run `python train.py`, then restart"
        ) from error
    if not same:
        raise ModelError(
            f"{name} no longer gives the golden rows in manifest.json the answers it gave after training "
            f"(with Python {python}, NumPy {numpy}): install those or run `python train.py`, then restart"
        )
    return model


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


def _ask(estimator: Estimator, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Predictions, and probabilities if the model has them and predicts by the highest of them (an SVC does not)."""
    predictions = formats.use_estimator(estimator, has_probabilities=False)(rows)
    if CLASSES is None or not hasattr(estimator, "predict_proba"):
        return predictions, None
    more = np.vstack([rows, _mixed(rows)])
    decided = estimator.predict(more)
    highest = np.asarray(estimator.predict_proba(more)).argmax(axis=1)  # before it is rounded to float32
    if len(np.unique(decided)) < 2 or not np.array_equal(CLASSES[highest], decided):
        return predictions, None  # rows of one class do not show how it decides: it may have a threshold of its own
    return predictions, formats.use_estimator(estimator, has_probabilities=True)(rows)


def _mixed(rows: np.ndarray) -> np.ndarray:
    """A thousand rows, each between two of these: some come close to the boundaries of classes."""
    rng = np.random.default_rng(0)
    first, second = rows[rng.integers(len(rows), size=(2, 1000))]
    step = rng.random((1000, 1), dtype=np.float32)
    whole = (rows % 1 == 0).all(axis=0)  # counts and categories: a model may know no number between two of them
    either = np.where(rng.random(first.shape) < step, second, first)
    return np.where(whole, either, first + step * (second - first))


def _answers_as_before(model: Model, golden: dict) -> bool:
    rows = np.array(golden["features"], dtype=np.float32).reshape(-1, len(FEATURE_NAMES))
    predictions, probabilities = model.answer(rows)
    same = _agree(predictions, golden["prediction"])
    return same and (probabilities is None or _agree(probabilities, golden["probabilities"]))


def _agree(answers: np.ndarray, golden: list) -> bool:
    expected = np.array(golden)
    if answers.shape != expected.shape or not len(expected):
        return False
    if answers.dtype.kind != "f":
        return np.array_equal(answers, expected)
    return np.allclose(answers, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


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
