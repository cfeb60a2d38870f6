"""What is not the model that its manifest describes is refused, and the message names what is wrong."""

import errno
import hashlib
import json
import pickle
from pathlib import Path

import joblib
import pytest

import model
import train

FORMATS = list(model.FILES)


def change_manifest(folder: Path, **changes) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def swap(folder: Path, format: str, content: bytes) -> None:
    """Replace a model's file and its hash, as somebody could who can write both."""
    (folder / model.FILES[format]).write_bytes(content)
    hashes = json.loads((folder / "manifest.json").read_text())["sha256"]
    change_manifest(folder, sha256=hashes | {format: hashlib.sha256(content).hexdigest()})


@pytest.mark.parametrize("format", FORMATS)
def test_a_missing_file_is_named(copy, format):
    for name in (model.FILES[format], "manifest.json"):
        (copy / name).unlink()
        with pytest.raises(model.ModelError, match=rf"{name}.*python train\.py"):
            model.load(copy, format)


def test_the_pickle_can_be_left_out_where_onnx_is_served(copy):
    (copy / "model.pkl").unlink()
    assert model.load(copy, "onnx").format == "onnx"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sha256": 1, "golden": {}}', "[" * 100_000], ids=len)
def test_a_damaged_manifest_is_named(copy, content):
    (copy / "manifest.json").write_text(content)
    with pytest.raises(model.ModelError, match=r"manifest\.json is damaged"):
        model.load(copy)


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": {}},
        {"sha256": "one"},
        {"scikit_learn": None},
        {"unsaved": None},
        {"feature_names": 64},
        {"classes": [1, 2]},
        {"classes": [1, 0, *range(2, 10)]},
        {"golden": {"features": [1]}},
        {"golden": {"features": [[10**400] * 64], "prediction": [1], "probabilities": [[0.1] * 10]}},
        {"golden": {"features": [], "prediction": [], "probabilities": []}},
    ],
    ids=str,
)
@pytest.mark.parametrize("format", FORMATS)
def test_a_manifest_that_is_wrong_somewhere_makes_no_model(copy, format, changes):
    change_manifest(copy, **changes)
    if changes == {"scikit_learn": None} and format == "onnx":
        assert model.load(copy, format)  # which does not need it
    else:
        with pytest.raises(model.ModelError):
            model.load(copy, format)


def test_a_disk_that_fails_is_told(copy, monkeypatch):
    def fail(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(model.ModelError, match=r"manifest\.json cannot be read \(Input/output error\)"):
        model.load(copy)


@pytest.mark.parametrize("format", FORMATS)
def test_one_changed_bit_is_found(copy, format):
    path = copy / model.FILES[format]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(model.ModelError, match=rf"{path.name}.*SHA-256.*was not opened"):
        model.load(copy, format)


class Intruder:
    """Unpickling it creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("format", FORMATS)
def test_a_swapped_pickle_is_never_unpickled(copy, tmp_path, format):
    mark = tmp_path / "the intruder was here"
    (copy / "model.pkl").write_bytes(pickle.dumps(Intruder(mark)))
    if format == "onnx":
        model.load(copy, format)
    else:
        with pytest.raises(model.ModelError, match="was not opened"):
            model.load(copy, format)
    assert not mark.exists()


def test_a_model_saved_by_another_scikit_learn_is_refused(copy, monkeypatch):
    classifier = joblib.load(copy / "model.pkl")
    monkeypatch.setattr("sklearn.base.__version__", "0.24.2")  # what the pickle will say it was saved by
    model.save(classifier, copy, accuracy=1.0, golden_rows=train.load_split()[1][:3])
    monkeypatch.undo()
    with pytest.raises(model.ModelError, match=r"saved by scikit-learn 0\.24\.2.*install that version"):
        model.load(copy)
    assert model.load(copy, "onnx")  # and ONNX does not care


def test_another_scikit_learn_in_the_manifest_is_enough(copy, tmp_path):
    mark = tmp_path / "opened"
    swap(copy, "pickle", pickle.dumps(Intruder(mark)))
    change_manifest(copy, scikit_learn="0.24.2")
    with pytest.raises(model.ModelError, match=r"saved by scikit-learn 0\.24\.2"):
        model.load(copy)
    assert not mark.exists()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "content",
    [b"", b"not a model", pickle.dumps([1, 2, 3]), b"csklearn.base\nNoSuchClass\n."],
    ids=["empty", "text", "list", "of a newer scikit-learn"],
)
def test_a_file_that_holds_no_model_is_refused_and_the_message_names_no_folder(copy, format, content):
    swap(copy, format, content)
    with pytest.raises(model.ModelError, match=rf"{model.FILES[format]} does not work here \(\w+\)") as caught:
        model.load(copy, format)
    assert "/" not in str(caught.value)


@pytest.mark.parametrize("format", FORMATS)
def test_a_model_that_answers_otherwise_than_in_training_is_refused(copy, tmp_path, format):
    classifier = joblib.load(copy / "model.pkl")
    classifier.coefs_[0][20] += 0.1
    model.save(classifier, tmp_path / "other", accuracy=1.0, golden_rows=train.load_split()[1][:3])
    swap(copy, format, (tmp_path / "other" / model.FILES[format]).read_bytes())
    with pytest.raises(model.ModelError, match="golden rows"):
        model.load(copy, format)
