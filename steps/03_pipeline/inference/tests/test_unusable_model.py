"""Why a model cannot be used: in TypeScript, each reason is the sentence that Python has for it."""

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

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


@pytest.fixture(scope="module")
def folders(model_dir, tmp_path_factory) -> dict[str, Path]:
    """For each case, the folder of a model that cannot be used."""
    folders = {}
    for case, change in CASES.items():
        folder = folders[case] = shutil.copytree(model_dir, tmp_path_factory.mktemp("unusable") / "model")
        manifest = folder / "manifest.json"
        changed = change(folder, json.loads(manifest.read_text()))
        if isinstance(changed, (str, dict, list)):
            manifest.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    return folders


@pytest.fixture(scope="module")
def reasons(typescript, folders) -> dict[str, str]:
    """For each case, what the service in TypeScript says: one process loads them all."""
    (node, _), service = typescript
    code = "import { load } from './model.ts'; for (const folder of process.argv.slice(1))"
    code += " console.log(await load(folder).then(() => 'loaded', (error) => error.message))"
    command = [node, "--input-type=module", "--eval", code, *folders.values()]
    done = subprocess.run(command, cwd=service, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return dict(zip(folders, done.stdout.splitlines(), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_the_reason_is_the_same(folders, reasons, case):
    with pytest.raises(model.ModelError) as caught:
        model.load(folders[case], "onnx")
    expected = str(caught.value).replace("contract.py", "contract.ts").replace("another MODEL_FORMAT", "Python")
    assert without_kind(reasons[case]) == without_kind(expected)


def without_kind(sentence: str) -> str:
    """The sentence without the name of the error, which each language chooses."""
    return re.sub(r"(does not work here) \(\w+\)", r"\1", sentence)
