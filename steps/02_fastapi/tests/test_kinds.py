"""Kinds of model: what can be saved, in which formats, and how it answers."""

import json
from contextlib import nullcontext

import numpy as np
import orjson
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC

import contract
import formats
import model

IRIS = load_iris()
FLOWERS, NUMBERS, NAMES = IRIS.data.astype(np.float32), IRIS.target, IRIS.target_names[IRIS.target]
PATIENTS, TARGETS = load_diabetes(return_X_y=True)
PATIENTS = PATIENTS.astype(np.float32)


class Double(TransformerMixin, BaseEstimator):
    """A step of one's own, which skl2onnx cannot convert."""

    def fit(self, rows, labels=None):
        return self

    def transform(self, rows):
        return 2 * rows


@pytest.fixture
def describe(monkeypatch):
    """A function that puts other features and classes into contract.py."""

    def describe(features: int, classes: list | None) -> None:
        monkeypatch.setattr(contract, "CLASSES", classes)
        monkeypatch.setattr(model, "FEATURE_NAMES", [f"feature_{place}" for place in range(features)])
        for module in (model, formats):
            monkeypatch.setattr(module, "CLASSES", None if classes is None else np.array(classes))

    return describe


@pytest.mark.parametrize("labels", [NUMBERS, NAMES], ids=["numbers", "text"])
@pytest.mark.parametrize(
    ("estimator", "has_probabilities"),
    [
        (make_pipeline(StandardScaler(), LogisticRegression()), True),
        (RandomForestClassifier(10, random_state=0), True),
        (GaussianNB(), True),
        (LinearSVC(random_state=0), False),
        (SVC(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_classifier_predicts_its_classes_in_both_formats(describe, tmp_path, estimator, has_probabilities, labels):
    describe(4, sorted(set(labels.tolist())))
    estimator.fit(FLOWERS, labels)
    assert model.save(estimator, tmp_path, accuracy=0.9, golden_rows=FLOWERS[::15]) == (
        "model.pkl, model.onnx and manifest.json"
    )
    assert json.loads((tmp_path / "manifest.json").read_text())["kind"] == "classifier"
    for format in model.FILES:
        loaded = model.load(tmp_path, format)
        predictions, probabilities = loaded.answer(FLOWERS)
        assert predictions.tolist() == estimator.predict(FLOWERS).tolist()
        assert loaded.has_probabilities == has_probabilities == (probabilities is not None)
        if has_probabilities:
            assert (probabilities.shape, probabilities.dtype) == ((150, 3), np.float32)
            assert orjson.loads(orjson.dumps(probabilities[:2], option=orjson.OPT_SERIALIZE_NUMPY))


@pytest.mark.parametrize("threshold", [0.2, 0.9])
def test_a_threshold_of_ones_own_decides_although_the_golden_rows_do_not_show_it(describe, tmp_path, threshold):
    rows, labels = load_breast_cancer(return_X_y=True)
    rows = rows.astype(np.float32)
    describe(30, [0, 1])
    inner = make_pipeline(StandardScaler(), LogisticRegression())
    estimator = FixedThresholdClassifier(inner, threshold=threshold).fit(rows, labels)
    likely = inner.fit(rows, labels).predict_proba(rows)[:, 1]
    for golden in (rows[np.abs(likely - 0.5) > 0.45][::50], rows[likely < 0.05][:10]):  # no doubtful ones; of one class
        model.save(estimator, tmp_path, accuracy=0.9, golden_rows=golden)
        predictions, probabilities = model.load(tmp_path).answer(rows)
        assert predictions.tolist() == estimator.predict(rows).tolist() != inner.predict(rows).tolist()
        assert probabilities is None


def test_classes_that_are_equally_probable_are_chosen_as_the_model_chooses(describe, tmp_path):
    describe(4, [0, 1, 2])
    saturated = SGDClassifier(loss="log_loss", random_state=0).fit(FLOWERS, NUMBERS)
    assert (saturated.predict_proba(FLOWERS).argmax(axis=1) != saturated.predict(FLOWERS)).any()
    model.save(saturated, tmp_path, accuracy=0.9, golden_rows=FLOWERS[::15])
    assert model.load(tmp_path).answer(FLOWERS)[0].tolist() == saturated.predict(FLOWERS).tolist()


def test_a_model_of_categories_is_asked_for_no_category_that_it_does_not_know(describe, tmp_path):
    describe(4, [0, 1, 2])
    rows = np.floor(FLOWERS)
    pipeline = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(rows, NUMBERS)
    assert "model.onnx" in model.save(pipeline, tmp_path, accuracy=0.9, golden_rows=rows[::15])
    assert model.load(tmp_path).answer(rows)[1] is not None


def test_golden_rows_may_have_twice_the_precision_and_names(describe, tmp_path):
    describe(4, [0, 1, 2])
    classifier = LogisticRegression(max_iter=500).fit(IRIS.data, NUMBERS)
    for golden in (IRIS.data[::15], load_iris(as_frame=True).data[::15]):
        assert "model.onnx" in model.save(classifier, tmp_path, accuracy=0.9, golden_rows=golden)


def test_columns_in_another_order_than_in_contract_py_are_refused(describe, tmp_path, monkeypatch):
    describe(4, [0, 1, 2])
    table = load_iris(as_frame=True).data
    names = [*table.columns]
    monkeypatch.setattr(contract, "FEATURES", names)
    monkeypatch.setattr(model, "FEATURE_NAMES", names)
    for order, sentence in (
        (names, None),
        (names[::-1], "with .petal width .cm.. as feature 0, contract.py says 'sepal"),
    ):
        classifier = LogisticRegression(max_iter=500).fit(table[order], NUMBERS)
        with pytest.raises(model.ModelError, match=sentence) if sentence else nullcontext():
            model.save(classifier, tmp_path, accuracy=0.9, golden_rows=FLOWERS[::15])


class Widest:
    """A model of one's own: it can predict, and nothing else."""

    def predict(self, rows):
        return rows[:, 3].astype(int)


def test_a_model_of_ones_own_needs_predict_alone(describe, tmp_path):
    describe(4, [0, 1, 2])
    Widest.classes_ = [0, 1, 2]
    model.save(Widest(), tmp_path, accuracy=0.9, golden_rows=FLOWERS[::15])
    assert model.load(tmp_path).answer(FLOWERS)[0].tolist() == FLOWERS[:, 3].astype(int).tolist()


def test_a_model_that_gives_a_row_several_classes_is_refused(describe, tmp_path):
    describe(4, [0, 1, 2])
    several = MLPClassifier((4,), max_iter=5, random_state=0).fit(FLOWERS, np.eye(3, dtype=int)[NUMBERS])
    with pytest.raises(model.ModelError, match="the model's answer to a row is not one class or one number"):
        model.save(several, tmp_path, accuracy=0.9, golden_rows=FLOWERS[::15])


@pytest.mark.parametrize("estimator", [LinearRegression(), RandomForestRegressor(5)], ids=lambda value: str(value)[:8])
@pytest.mark.parametrize("targets", [TARGETS, TARGETS[:, None]], ids=["one dimension", "one column"])
def test_a_regressor_predicts_numbers_in_both_formats(describe, tmp_path, estimator, targets):
    describe(10, None)
    estimator.fit(PATIENTS, targets.ravel() if isinstance(estimator, RandomForestRegressor) else targets)
    model.save(estimator, tmp_path, accuracy=0.5, golden_rows=PATIENTS[:10])
    assert json.loads((tmp_path / "manifest.json").read_text())["kind"] == "regressor"
    for format in model.FILES:
        predictions, probabilities = model.load(tmp_path, format).answer(PATIENTS)
        assert (predictions.dtype, predictions.shape, probabilities) == (np.float32, (442,), None)
        assert np.allclose(predictions, estimator.predict(PATIENTS).ravel(), rtol=1e-4)


@pytest.mark.parametrize("step", [Double(), FunctionTransformer(np.log1p)], ids=lambda step: type(step).__name__)
def test_a_model_that_onnx_cannot_hold_is_saved_as_a_pickle_and_says_why(describe, tmp_path, step):
    describe(4, [0, 1, 2])
    (tmp_path / "model.onnx").write_bytes(b"of an older model")
    pipeline = make_pipeline(step, LogisticRegression(max_iter=500)).fit(FLOWERS, NUMBERS)
    saved = model.save(pipeline, tmp_path, accuracy=0.9, golden_rows=FLOWERS[::15])
    assert saved.startswith("model.pkl and manifest.json (no model.onnx: ") and type(step).__name__ in saved
    assert not (tmp_path / "model.onnx").exists()
    assert model.load(tmp_path).answer(FLOWERS)[0].tolist() == pipeline.predict(FLOWERS).tolist()
    with pytest.raises(model.ModelError, match=r"could not be saved as model\.onnx \(.*MODEL_FORMAT"):
        model.load(tmp_path, "onnx")


def test_a_class_that_only_train_py_knows_is_not_saved(describe, tmp_path, monkeypatch):
    describe(4, [0, 1, 2])
    monkeypatch.setattr(Double, "__module__", "__main__")
    monkeypatch.setattr("__main__.Double", Double, raising=False)
    pipeline = make_pipeline(Double(), LogisticRegression(max_iter=500)).fit(FLOWERS, NUMBERS)
    with pytest.raises(model.ModelError, match="move it to a module of its own"):
        model.save(pipeline, tmp_path, accuracy=0.9, golden_rows=FLOWERS[::15])


@pytest.mark.parametrize(
    ("features", "classes", "sentence"),
    [
        (64, [0, 1, 2], "the model was trained on 4 features, contract.py says 64"),
        (4, [0, 1], r"on the classes \[0, 1, 2\], contract.py says the classes \[0, 1\]"),
        (4, ["0", "1", "2"], r"on the classes \[0, 1, 2\], contract.py says the classes \[\"0\", \"1\", \"2\"\]"),
        (4, None, r"on the classes \[0, 1, 2\], contract.py says numbers \(a regressor\)"),
    ],
)
def test_a_model_that_contract_py_does_not_describe_is_not_saved_and_not_loaded(
    describe, tmp_path, features, classes, sentence
):
    classifier = LogisticRegression(max_iter=500).fit(FLOWERS, NUMBERS)
    describe(4, [0, 1, 2])
    model.save(classifier, tmp_path, accuracy=0.9, golden_rows=FLOWERS[::15])
    describe(features, classes)
    with pytest.raises(model.ModelError, match=sentence):
        model.load(tmp_path)
    with pytest.raises(model.ModelError, match=sentence):
        model.save(classifier, tmp_path, accuracy=0.9, golden_rows=FLOWERS[::15])


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e39])
def test_an_answer_that_is_not_finite_is_an_error(number):
    broken = model.Model(lambda rows: np.full(len(rows), number, np.float32), None, "1", "pickle")
    with pytest.raises(formats.AnswerError, match="not finite"):
        broken.answer(FLOWERS)
