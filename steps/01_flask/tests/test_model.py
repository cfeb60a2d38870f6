import errno
import hashlib
import json
import pickle
import shutil
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import model
import train


@pytest.fixture
def copy(model_dir, tmp_path) -> Path:
    return shutil.copytree(model_dir, tmp_path / "model")


def change_manifest(folder: Path, **changes) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def swap_pickle(folder: Path, content: bytes) -> None:
    """Replace the pickle and its hash, as somebody could who can write both."""
    (folder / "model.pkl").write_bytes(content)
    change_manifest(folder, sha256=hashlib.sha256(content).hexdigest())


def test_the_manifest_says_what_the_model_is(model_dir):
    manifest = json.loads((model_dir / "manifest.json").read_text())
    assert manifest["sha256"] == hashlib.sha256((model_dir / "model.pkl").read_bytes()).hexdigest()
    assert manifest["python"] == ".".join(map(str, sys.version_info[:3]))
    assert manifest["numpy"] == np.__version__
    assert manifest["classes"] == list(range(10))
    assert len(manifest["feature_names"]) == 64
    assert np.shape(manifest["golden"]["features"]) == (10, 64)
    assert np.shape(manifest["golden"]["answers"]) == (10, 10)


def test_a_saved_model_loads_and_answers_as_before(copy):
    golden = json.loads((copy / "manifest.json").read_text())["golden"]
    probabilities = model.load(copy).predict_proba(np.array(golden["features"], dtype=np.float32))
    assert np.allclose(probabilities, golden["answers"], atol=1e-6)


@pytest.mark.parametrize("name", ["model.pkl", "manifest.json"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(model.ModelError, match=rf"{name}.*python train\.py"):
        model.load(copy)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sha256": 1, "golden": {}}', "[" * 100_000], ids=len)
def test_a_damaged_manifest_is_named(copy, content):
    (copy / "manifest.json").write_text(content)
    with pytest.raises(model.ModelError, match=r"manifest\.json is damaged"):
        model.load(copy)


@pytest.mark.parametrize("key", ["sha256", "scikit_learn", "python", "numpy", "feature_names", "classes", "golden"])
def test_a_manifest_that_lacks_a_key_is_damaged(copy, key):
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest[key]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(model.ModelError, match=r"manifest\.json is damaged"):
        model.load(copy)


def test_a_disk_that_fails_is_told(copy, monkeypatch):
    def fail(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(model.ModelError, match=r"manifest\.json cannot be read \(Input/output error\)"):
        model.load(copy)


def test_one_changed_bit_is_found(copy):
    pickled = bytearray((copy / "model.pkl").read_bytes())
    pickled[len(pickled) // 2] ^= 1
    (copy / "model.pkl").write_bytes(pickled)
    with pytest.raises(model.ModelError, match="SHA-256"):
        model.load(copy)


class Intruder:
    """Unpickling it creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_swapped_pickle_is_never_unpickled(copy, tmp_path):
    mark = tmp_path / "the intruder was here"
    (copy / "model.pkl").write_bytes(pickle.dumps(Intruder(mark)))
    with pytest.raises(model.ModelError, match="was not opened"):
        model.load(copy)
    assert not mark.exists()


def test_a_model_saved_by_another_scikit_learn_is_refused(copy, monkeypatch):
    classifier = joblib.load(copy / "model.pkl")
    monkeypatch.setattr("sklearn.base.__version__", "0.24.2")  # what the pickle will say it was saved by
    model.save(classifier, copy, accuracy=1.0, golden_rows=train.load_split()[1][:3])
    monkeypatch.undo()
    with pytest.raises(model.ModelError, match=r"saved by scikit-learn 0\.24\.2.*install that version"):
        model.load(copy)


def test_another_scikit_learn_in_the_manifest_is_enough(copy, tmp_path):
    mark = tmp_path / "opened"
    swap_pickle(copy, pickle.dumps(Intruder(mark)))
    change_manifest(copy, scikit_learn="0.24.2")
    with pytest.raises(model.ModelError, match=r"saved by scikit-learn 0\.24\.2"):
        model.load(copy)
    assert not mark.exists()


def test_a_message_never_names_a_folder(copy):
    swap_pickle(copy, b"csklearn.base\nNoSuchClass\n.")  # what a pickle of a newer scikit-learn may ask for
    with pytest.raises(model.ModelError, match=r"does not work here \(AttributeError\)") as caught:
        model.load(copy)
    assert "/" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1, 2, 3])], ids=["empty", "text", "list"])
def test_a_pickle_that_holds_no_classifier_is_refused(copy, content):
    swap_pickle(copy, content)
    with pytest.raises(model.ModelError, match=r"model\.pkl"):
        model.load(copy)


def test_a_model_that_answers_otherwise_than_in_training_is_refused(copy):
    classifier = joblib.load(copy / "model.pkl")
    classifier.coefs_[0][20] += 0.1
    joblib.dump(classifier, copy / "model.pkl")
    swap_pickle(copy, (copy / "model.pkl").read_bytes())
    with pytest.raises(model.ModelError, match="golden rows"):
        model.load(copy)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"feature_names": ["a", "b"]}, "the model was trained on 2 features, contract.py says 64"),
        ({"classes": None}, "the model was trained on numbers (a regressor), contract.py says the classes [0, 1"),
        ({"classes": ["a"]}, 'the model was trained on the classes ["a"], contract.py says the classes [0, 1'),
    ],
)
def test_a_model_that_contract_py_does_not_describe_is_refused(copy, changes, sentence):
    change_manifest(copy, **changes)
    with pytest.raises(model.ModelError) as caught:
        model.load(copy)
    assert str(caught.value).startswith(sentence)


def test_a_feature_of_another_name_is_refused(copy):
    names = ["width", *json.loads((copy / "manifest.json").read_text())["feature_names"][1:]]
    change_manifest(copy, feature_names=names)
    with pytest.raises(model.ModelError, match="with \"width\" as feature 0, contract.py says 'pixel_0_0'"):
        model.load(copy)


def test_a_classifier_of_other_features_or_classes_is_not_saved(tmp_path):
    rows = np.eye(4, dtype=np.float32)
    with pytest.raises(model.ModelError, match="trained on 4 features, contract.py says 64"):
        model.save(LogisticRegression().fit(rows, [0, 1, 2, 3]), tmp_path, accuracy=1.0, golden_rows=rows)
    assert not list(tmp_path.iterdir())
