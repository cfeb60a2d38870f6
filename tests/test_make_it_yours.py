"""Another model in a copied-out step: "Make it yours" of its README is followed, and the contract holds.

contract.py and train.py are the only files that change. For the flowers, they are those in the README. In step 03,
inference gets both, and the gateway gets contract.py. Preprocess and the page are about drawings and stay out of it.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import requests
import tritonclient.http
from sklearn.datasets import load_diabetes, load_iris

from conftest import STEPS, database_in, wait_until
from contract import Case, cases_for, check, read_contract
from lab.launch import Service, launch, launch_pipeline, stop_all

# Text over gRPC and numbers over REST are in the gateway's own tests, and in those of inference.
COPIES = [(step, kind) for step in ("01_flask", "02_fastapi") for kind in ("iris", "diabetes")]
COPIES += [("03_pipeline", "iris"), ("03_pipeline+grpc,nats", "diabetes")]

DIABETES_CONTRACT = """
NAME = "diabetes"
FEATURES: list[str] | int = 10
LOW: float | None = -1
HIGH: float | None = None
CLASSES: list[int] | list[str] | None = None
EXAMPLE: list[float] = [0.04, 0.05, 0.06, 0.02, -0.04, -0.03, -0.04, -0.003, 0.02, -0.02]
"""
DIABETES_TRAIN = """
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge

import model

rows, targets = load_diabetes(return_X_y=True)
rows = rows.astype(np.float32)
regressor = Ridge(0.1).fit(rows, targets)
folder = Path(os.environ.get("MODEL_DIR") or "model")
print(model.save(regressor, folder, accuracy=regressor.score(rows, targets), golden_rows=rows[:10]))
"""
# What only the service of the digits may say. Numbers count if they are whole, not part of a time, address or fraction.
ABOUT_DIGITS = re.compile(r"(?<!too many )digit|pixel|(?<![\w.:/-])(64|16)(?![\w.:/-])", re.IGNORECASE)


def make_it_yours(step: Path) -> str:
    """The section of the step's README."""
    return (step / "README.md").read_text().partition("## Make it yours")[2].partition("\n## ")[0]


def write_kind(kind: str, folder: Path) -> Path:
    """Replace contract.py and train.py in a copied-out step. Returns the folder of the service with the model."""
    if kind == "iris":
        section = make_it_yours(STEPS / "02_fastapi")
        contract, train = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    else:
        contract, train = DIABETES_CONTRACT, DIABETES_TRAIN
    for path in [folder / "contract.py", *folder.glob("*/contract.py")]:
        if path.exists():
            path.write_text(contract)
    inference = folder / "inference" if (folder / "inference").exists() else folder
    (inference / "train.py").write_text(train)
    return inference


def known_rows(kind: str) -> list[tuple[list[float], str | float]]:
    """Rows, and what a model of the kind predicts for each."""
    if kind == "iris":
        iris = load_iris()
        return [(iris.data[place].tolist(), str(iris.target_names[place // 50])) for place in (0, 60, 100)]
    from sklearn.linear_model import Ridge

    rows, targets = load_diabetes(return_X_y=True)
    predictions = Ridge(0.1).fit(rows.astype(np.float32), targets).predict(rows[:3].astype(np.float32))
    return list(zip(rows[:3].tolist(), predictions.tolist(), strict=True))


@dataclass
class Running:
    kind: str
    step: str
    contract: SimpleNamespace
    services: dict[str, Service]

    @property
    def url(self) -> str:
        return self.services["gateway"].url

    def cases(self) -> list[Case]:
        return [case for case in cases_for(self.contract, known_rows(self.kind)) if case.since <= int(self.step[:2])]


@pytest.fixture(scope="module", params=COPIES, ids="-".join)
def running(request, tmp_path_factory) -> Iterator[Running]:
    """A copied-out step with another model, trained and started as its README says."""
    step, kind = request.param
    name, _, wires = step.partition("+")
    folder = tmp_path_factory.mktemp(kind) / name
    ignore = shutil.ignore_patterns("model", ".venv*", "__pycache__", ".*cache", "tests", "node_modules")
    shutil.copytree(STEPS / name, folder, ignore=ignore)
    inference = write_kind(kind, folder)
    env = {name: value for name, value in os.environ.items() if not name.startswith("MODEL_")}
    subprocess.run([sys.executable, "train.py"], cwd=inference, env=env, check=True, timeout=400)
    if inference == folder:
        service = launch(folder, env={"MODEL_DIR": ""}, timeout=200)
        services = {"gateway": service, "inference": service}
    else:
        kept = tmp_path_factory.mktemp("kept")
        settings = {"MODEL_DIR": "", "DATABASE_URL": database_in(kept), "BROKER_DIR": str(kept)}
        services = launch_pipeline(folder, "/readyz", wires, **settings)
    try:
        yield Running(kind, step, read_contract(inference), services)
    finally:
        stop_all(*services.values())


@pytest.mark.parametrize("step", ["01_flask", "02_fastapi"])
def test_the_readme_names_no_file_to_change_but_two(step):
    named = re.findall(r"\*\*\d\. .*?\*\*.*?`(\w+\.py)`", make_it_yours(STEPS / step))
    assert set(named) <= {"contract.py", "train.py", "app.py"}
    assert named[:2] == ["contract.py", "train.py"]


def test_the_contract_holds_and_nothing_speaks_of_digits(running):
    cases = running.cases()
    for case in cases:
        reply = check(case, running.url)
        assert not ABOUT_DIGITS.search(reply.text), (case.name, reply.text)
    assert len(cases) > 30
    url = running.services["inference"].url
    for path in ("/readyz", "/livez", "/nowhere", "/openapi.json", "/v2", "/v2/models/" + running.kind):
        text = requests.get(url + path, timeout=10).text
        assert not ABOUT_DIGITS.search(text), (path, ABOUT_DIGITS.search(text), text)
    log = re.sub(r"\[\d\d/\w+/\d{4} [\d:]+\]", "", running.services["inference"].log(1000))  # Flask's own times
    assert not ABOUT_DIGITS.search(log), ABOUT_DIGITS.search(log)


def test_a_result_is_stored_as_it_was_answered(running):
    if "storage" not in running.services:
        pytest.skip("nothing is stored before step 03")
    row, expected = known_rows(running.kind)[0]
    answer = requests.post(running.url + "/inferir", json={"features": row}, timeout=10).json()
    assert answer["stored"] in (True, "queued"), answer

    def stored() -> list[dict]:
        listing = requests.get(running.url + "/results", timeout=10).json()
        return [result for result in listing["results"] if result["id"] == answer["id"]]

    wait_until(stored, timeout=60)
    (result,) = stored()
    assert result["prediction"] == answer["prediction"][0]
    assert result["features"] == pytest.approx(row)
    assert (result["probabilities"] is None) == (running.kind == "diabetes")


def test_v2_answers_in_the_models_own_types(running):
    if running.step == "01_flask":
        pytest.skip("step 01 has no V2")
    rows, expected = zip(*known_rows(running.kind), strict=True)
    client = tritonclient.http.InferenceServerClient(running.services["inference"].url.removeprefix("http://"))
    try:
        metadata = client.get_model_metadata(running.kind)
        tensor = tritonclient.http.InferInput("features", [len(rows), len(rows[0])], "FP32")
        tensor.set_data_from_numpy(np.array(rows, np.float32), binary_data=False)
        wanted = [tritonclient.http.InferRequestedOutput("prediction", binary_data=False)]
        predictions = client.infer(running.kind, [tensor], outputs=wanted).as_numpy("prediction")
    finally:
        client.close()
    outputs = {output["name"]: output["datatype"] for output in metadata["outputs"]}
    if running.kind == "iris":
        assert outputs == {"prediction": "BYTES", "probabilities": "FP32"}
        assert [text.decode() if isinstance(text, bytes) else text for text in predictions] == list(expected)
    else:
        assert outputs == {"prediction": "FP64"}
        assert predictions.tolist() == pytest.approx(expected, rel=1e-4)
