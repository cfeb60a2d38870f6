"""Why a model cannot be used: in TypeScript, each reason is the sentence that Python has for it."""

import hashlib
import json
import re
import shutil

import pytest

import model

CASES = {
    "no folder": lambda folder, manifest: shutil.rmtree(folder),
    "no file": lambda folder, manifest: (folder / "model.onnx").unlink(),
    "another file": lambda folder, manifest: (folder / "model.onnx").write_bytes(b"another"),
    "not JSON": lambda folder, manifest: "{",
    "no object": lambda folder, manifest: [],
    "a key is missing": lambda folder, manifest: {key: manifest[key] for key in manifest if key != "golden"},
    "fewer features": lambda folder, manifest: {**manifest, "feature_names": ["a"] * 63},
    "another feature": lambda folder, manifest: {**manifest, "feature_names": ["a"] * 64},
    "other classes": lambda folder, manifest: {**manifest, "classes": ["zero", "one"]},
    "a regressor": lambda folder, manifest: {**manifest, "classes": None},
    "not converted": lambda folder, manifest: {**manifest, "unsaved": {"onnx": "MissingShapeCalculator: no"}},
    "not ONNX": lambda folder, manifest: damaged(folder, manifest),
    "other predictions": lambda folder, manifest: golden(manifest, prediction=[0] * 10),
    "other probabilities": lambda folder, manifest: golden(manifest, probabilities=[[0.1] * 10] * 10),
    "no golden rows": lambda folder, manifest: golden(manifest, features=[], prediction=[], probabilities=[]),
}


def golden(manifest: dict, **changes) -> dict:
    return {**manifest, "golden": {**manifest["golden"], **changes}}


def damaged(folder, manifest: dict) -> dict:
    """A file that is no ONNX, and a manifest with its hash."""
    (folder / "model.onnx").write_bytes(b"no ONNX")
    return {**manifest, "sha256": {"onnx": hashlib.sha256(b"no ONNX").hexdigest()}}


@pytest.mark.parametrize("case", CASES)
def test_the_reason_is_the_same(start, typescript, model_dir, tmp_path, case):
    folder = shutil.copytree(model_dir, tmp_path / "model")
    manifest = json.loads((folder / "manifest.json").read_text())
    changed = CASES[case](folder, manifest)
    if isinstance(changed, str):
        (folder / "manifest.json").write_text(changed)
    elif isinstance(changed, (dict, list)):
        (folder / "manifest.json").write_text(json.dumps(changed))
    with pytest.raises(model.ModelError) as caught:
        model.load(folder, "onnx")
    expected = str(caught.value).replace("contract.py", "contract.ts").replace("another MODEL_FORMAT", "Python")
    reply = start(typescript, model_dir=folder, grpc_port=0).rest.get("/readyz")
    assert (reply.status_code, without_kind(reply.json()["error"])) == (503, without_kind(expected))


def without_kind(sentence: str) -> str:
    """The sentence without the name of the error, which each language chooses."""
    return re.sub(r"(does not work here) \(\w+\)", r"\1", sentence)
