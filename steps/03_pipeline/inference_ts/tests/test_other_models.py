"""Another model is another contract.ts: text classes, a model without probabilities, a regressor."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc
import numpy as np
import pytest

from typescript import PIPELINE

sys.path.append(str(PIPELINE / "inference"))
from open_inference_pb2 import ModelInferRequest, ModelMetadataRequest  # noqa: E402
from open_inference_pb2_grpc import GRPCInferenceServiceStub  # noqa: E402

NAMES = ["setosa", "versicolor", "virginica"]
# estimator, what the data is, CLASSES, a number that is out of range
MODELS = {
    "text": ("linear_model.LogisticRegression(max_iter=500)", "iris", NAMES),
    "no probabilities": ("svm.LinearSVC()", "iris", [0, 1, 2]),
    "regressor": ("linear_model.Ridge(0.1)", "diabetes", None),
}
TRAIN = """
import json, sys
from pathlib import Path
import numpy as np
from sklearn import datasets, linear_model, svm
import contract, model
rows, targets = datasets.load_{data}(return_X_y=True)
rows = rows.astype(np.float32)
if contract.CLASSES and isinstance(contract.CLASSES[0], str):
    targets = np.array(contract.CLASSES)[targets]
print(model.save({estimator}.fit(rows, targets), Path("model"), accuracy=1, golden_rows=rows[::20]), file=sys.stderr)
predictions, probabilities = model.load(Path("model"), "onnx").answer(rows[1::20])
probabilities = None if probabilities is None else probabilities.tolist()
print(json.dumps([rows[1::20].tolist(), predictions.tolist(), probabilities]))
"""


@pytest.fixture(params=MODELS)
def trained(request, tmp_path):
    """The kind of the model, its contract in TypeScript, its folder, and rows with the answers of Python."""
    estimator, data, classes = MODELS[request.param]
    features = {"iris": 4, "diabetes": 10}[data]
    for path in (PIPELINE / "inference").glob("*.py"):
        shutil.copy(path, tmp_path)
    said = {"NAME": data, "FEATURES": features, "LOW": -9, "HIGH": None, "CLASSES": classes}
    (tmp_path / "contract.py").write_text("".join(f"{name} = {value!r}\n" for name, value in said.items()))
    command = [sys.executable, "-c", TRAIN.format(estimator=estimator, data=data)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "model.onnx" in done.stderr, done.stderr
    values = {name: "null" if value is None else repr(value) for name, value in said.items()}
    types = {"FEATURES": "string[] | number", "CLASSES": "number[] | string[] | null"}
    types |= dict.fromkeys(("LOW", "HIGH"), "number | null")
    lines = (f"export const {name}: {types.get(name, 'string')} = {value};\n" for name, value in values.items())
    return request.param, data, "".join(lines), tmp_path / "model", json.loads(done.stdout)


def test_it_answers_as_python_does(installed, trained):
    kind, name, contract, model, (rows, predictions, probabilities) = trained
    node, original = installed
    with tempfile.TemporaryDirectory(dir=original.parent) as folder:
        shutil.copytree(original, folder, dirs_exist_ok=True)
        (Path(folder) / "contract.ts").write_text(contract)
        env = {**os.environ, "MODEL_DIR": str(model), "MODEL_FORMAT": "onnx", "PORT": "0", "GRPC_PORT": "0"}
        process = subprocess.Popen([node, "app.ts"], cwd=folder, env=env, stdout=subprocess.PIPE, text=True)
        with process:
            try:
                check(process.stdout.readline(), kind, name, rows, predictions, probabilities)
            finally:
                process.kill()


def check(line: str, kind: str, name: str, rows: list, predictions: list, probabilities: list | None) -> None:
    assert "gRPC running on " in line, line
    with grpc.insecure_channel(line.partition("running on ")[2].partition('"')[0]) as channel:
        stub = GRPCInferenceServiceStub(channel)
        types = {"text": "BYTES", "no probabilities": "INT64", "regressor": "FP64"}
        outputs = [("prediction", types[kind], [-1])] + ([("probabilities", "FP32", [-1, 3])] if probabilities else [])
        metadata = stub.ModelMetadata(ModelMetadataRequest(name=name), timeout=20)
        assert [(one.name, one.datatype, [*one.shape]) for one in metadata.outputs] == outputs

        array = np.array(rows, "<f4")
        tensor = {"name": "features", "datatype": "FP32", "shape": array.shape}
        request = ModelInferRequest(model_name=name, inputs=[tensor], raw_input_contents=[array.tobytes()])
        response = stub.ModelInfer(request, timeout=20)
        first, *others = response.raw_output_contents
        assert read_predictions(first, types[kind]) == predictions
        assert len(others) == bool(probabilities)
        if probabilities:
            assert np.array_equal(np.frombuffer(others[0], "<f4").reshape(-1, 3), np.float32(probabilities))

        array[0, 1] = -10
        request.raw_input_contents[0] = array.tobytes()
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request, timeout=20)
        assert caught.value.details() == "features[0][1] must be a number of at least -9, not -10"


def read_predictions(raw: bytes, datatype: str) -> list:
    if datatype != "BYTES":
        return np.frombuffer(raw, {"INT64": "<i8", "FP64": "<f8"}[datatype]).tolist()
    texts = []
    while raw:
        size = int.from_bytes(raw[:4], "little")
        texts.append(raw[4 : 4 + size].decode())
        raw = raw[4 + size :]
    return texts
