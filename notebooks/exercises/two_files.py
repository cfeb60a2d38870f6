"""Another service in two files: how will a patient's diabetes have progressed after a year?"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import requests
from sklearn.datasets import load_diabetes
from sklearn.metrics import r2_score

from lab.launch import STEPS, launch

notebook = "05_make_it_yours"
minutes = 30
hints = [
    'The section "Make it yours" of steps/02_fastapi/README.md has both files for iris flowers. What is different if '
    "the answer is a number and not a class?",
    "`CLASSES = None` says that the model is a regressor. `scaled=False` gives the numbers as a doctor sends them. "
    "`feature_names` of the data are the names, in the order of the columns.",
    "At the end of train.py: `model.save(regressor, folder, accuracy=..., golden_rows=...)`. The accuracy of a "
    "regressor is R², which is what its `score` returns. Golden rows are some rows of float32.",
]


def stub():
    """Return the texts of the two files. train.py has to write into the folder model/ beside it, by model.save."""
    contract = """
NAME = "diabetes"
FEATURES = 64
LOW, HIGH = 0, 16
CLASSES = None
EXAMPLE = [0.0] * 64
"""
    train = """
from sklearn.datasets import load_diabetes  # with scaled=False: years, kilograms and so on, as a doctor sends them
"""
    return {"contract.py": contract, "train.py": train}


def solution():
    """CLASSES is None, since the answer is a number. HIGH is None: one bound holds for all features and their units.

    The scaler is a part of the saved model. A scaler in train.py alone would be missing in the service.
    """
    contract = """
NAME = "diabetes"
FEATURES: list[str] | int = ["age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"]
LOW: float | None = 0
HIGH: float | None = None
CLASSES: list[int] | list[str] | None = None
EXAMPLE: list[float] = [59.0, 2.0, 32.1, 101.0, 157.0, 93.2, 38.0, 4.0, 4.86, 87.0]
"""
    train = """
from pathlib import Path

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import model

rows, targets = load_diabetes(return_X_y=True, scaled=False)
train_rows, test_rows, train_targets, test_targets = train_test_split(rows.astype(np.float32), targets, random_state=0)
regressor = make_pipeline(StandardScaler(), Ridge()).fit(train_rows, train_targets)
accuracy = regressor.score(test_rows, test_targets)
model.save(regressor, Path(__file__).parent / "model", accuracy=accuracy, golden_rows=test_rows[:10])
"""
    return {"contract.py": contract, "train.py": train}


def changed(file, old, new):
    files = solution()
    assert old in files[file]
    return files | {file: files[file].replace(old, new)}


def a_bound_of_the_digits():
    return changed("contract.py", "HIGH: float | None = None", "HIGH = 16")


def features_prepared_outside():
    return changed("train.py", "rows, targets =", "rows = load_diabetes().data\n_, targets =") | {
        "contract.py": changed("contract.py", "= 0\n", "= None\n")["contract.py"]
    }


def classes_for_a_regressor():
    return changed("contract.py", "CLASSES: list[int] | list[str] | None = None", "CLASSES = [0, 1]")


def nothing_saved():
    return {"contract.py": solution()["contract.py"], "train.py": "import model"}


wrong = [
    (a_bound_of_the_digits, "would refuse patients"),
    (features_prepared_outside, "train/serve skew"),
    (classes_for_a_regressor, "train.py ends with"),
    (nothing_saved, "has saved no model"),
]


def check(two_files):
    files = two_files()
    if not isinstance(files, dict) or {*files} != {"contract.py", "train.py"}:
        return "return a dict of two texts, contract.py and train.py."
    data = load_diabetes(scaled=False)
    contract: dict = {}
    exec(files["contract.py"], contract)
    names = contract["FEATURES"]
    count = names if isinstance(names, int) else len(names)
    if count != len(data.feature_names):
        return f"contract.py says {count} features, and the data has {len(data.feature_names)}."
    if names not in (count, data.feature_names):
        return f"the names of the features are not those of the data, or not in their order: {data.feature_names}."
    low, high = contract.get("LOW"), contract.get("HIGH")
    if high is not None and high < data.data.max() or low is not None and low > data.data.min():
        least, most = data.data.min(), data.data.max()
        return f"the service would refuse patients: their numbers go from {least:.0f} to {most:.0f}, see LOW and HIGH."
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "service")
        leave_out = shutil.ignore_patterns("model", "tests", ".*", "__pycache__")
        shutil.copytree(STEPS / "02_fastapi", folder, ignore=leave_out)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        return try_out(folder, data)


def try_out(folder: Path, data) -> str:
    """Train and start the service in `folder`, and ask it."""
    env = {**os.environ, "MODEL_DIR": ""}
    command = [sys.executable, "train.py"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)
    if done.returncode:
        return f"train.py ends with `{done.stderr.strip().splitlines()[-1]}`."
    if not (folder / "model" / "manifest.json").exists():
        return "train.py runs, but has saved no model into the folder model/ beside it: see hint 3."
    with launch(folder, env={"MODEL_DIR": ""}) as service:
        reply = requests.post(f"{service.url}/inferir", json={"features": data.data[:200].tolist()}, timeout=10)
    if not reply.ok:
        return f"the service answers: {reply.status_code} {reply.json()['error']}."
    prediction = reply.json()["prediction"]
    quality = r2_score(data.target[:200], prediction)
    if quality < 0.3:
        return (
            f"it answers {prediction[0]:.0f} for the first patient, R² is {quality:.2f}: a linear model has 0.5. Are "
            "features prepared in train.py in a way that the service does not know of? That is train/serve skew."
        )
    return ""
