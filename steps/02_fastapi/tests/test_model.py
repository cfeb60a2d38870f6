"""A model is saved in two formats, and each loads and answers as before."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import model
import train

FORMATS = list(model.FILES)


@pytest.fixture(scope="session")
def forest_dir(tmp_path_factory) -> Path:
    """Another kind of model, saved with the setting that people use to train it faster."""
    rows, golden, labels, _ = train.load_split()
    forest = RandomForestClassifier(20, n_jobs=-1, random_state=0).fit(rows, labels)
    folder = tmp_path_factory.mktemp("forest")
    model.save(forest, folder, accuracy=0.97, golden_rows=golden[:10])
    return folder


def test_the_manifest_says_what_the_model_is(model_dir):
    manifest = json.loads((model_dir / "manifest.json").read_text())
    for format, name in model.FILES.items():
        assert manifest["sha256"][format] == hashlib.sha256((model_dir / name).read_bytes()).hexdigest()
    assert manifest["python"] == ".".join(map(str, sys.version_info[:3]))
    assert manifest["numpy"] == np.__version__
    assert manifest["classes"] == list(range(10))
    assert len(manifest["feature_names"]) == 64
    assert np.shape(manifest["golden"]["features"]) == (10, 64)
    assert np.shape(manifest["golden"]["probabilities"]) == (10, 10)


@pytest.mark.parametrize("format", FORMATS)
def test_a_saved_model_loads_and_answers_as_before(copy, format):
    manifest = json.loads((copy / "manifest.json").read_text())
    loaded = model.load(copy, format)
    probabilities = loaded.predict(np.array(manifest["golden"]["features"], dtype=np.float32))
    assert probabilities.dtype == np.float32
    assert np.allclose(probabilities, manifest["golden"]["probabilities"], atol=1e-5)
    assert loaded.classes.tolist() == list(range(10))
    assert loaded.info == {"version": manifest["sha256"][format][:12], "format": format}


@pytest.mark.parametrize("folder", ["model_dir", "forest_dir"])
def test_the_two_formats_agree_on_every_row_of_the_data_set(request, folder):
    rows = load_digits().data.astype(np.float32)
    one, two = (model.load(request.getfixturevalue(folder), format).predict(rows) for format in FORMATS)
    assert one.shape == two.shape == (1797, 10)
    assert np.array_equal(one.argmax(axis=1), two.argmax(axis=1))
    assert np.allclose(one, two, rtol=0, atol=1e-5)


def test_the_onnx_model_is_served_without_scikit_learn(model_dir):
    code = """
import sys
for name in ("joblib", "onnx", "scipy", "skl2onnx", "sklearn", "threadpoolctl"):
    sys.modules[name] = None  # importing it fails
from starlette.testclient import TestClient
import app
with TestClient(app.create_app()) as client:
    sample = open("sample_request.json").read()
    print(client.post("/inferir", content=sample, headers={"Content-Type": "application/json"}).json()["prediction"])
"""
    env = {"MODEL_FORMAT": "onnx", "MODEL_DIR": str(model_dir)}
    assert "[3]" in run(code, env).splitlines()


def test_a_pickled_model_predicts_in_one_thread(tmp_path):
    rows, golden, labels, _ = train.load_split()
    forest = make_pipeline(StandardScaler(), RandomForestClassifier(5, n_jobs=-1, random_state=0)).fit(rows, labels)
    model.save(forest, tmp_path, accuracy=0.9, golden_rows=golden[:10])
    code = """
import model, os, pathlib, threading
compute = model.load(pathlib.Path(os.environ["MODEL_DIR"])).compute
import threadpoolctl
from sklearn.utils._openmp_helpers import _openmp_effective_n_threads
print({pool["num_threads"] for pool in threadpoolctl.threadpool_info()})
thread = threading.Thread(target=lambda: print(_openmp_effective_n_threads()))  # as in the batcher
thread.start()
thread.join()
print(compute.__closure__[0].cell_contents.__self__[-1].n_jobs)
"""
    assert run(code, {"MODEL_DIR": str(tmp_path)}).splitlines() == ["{1}", "1", "1"]


def run(code: str, env: dict[str, str]) -> str:
    """What a new Python process in the step's folder prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(model.__file__).parent,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
