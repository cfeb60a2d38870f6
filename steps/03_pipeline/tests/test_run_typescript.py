"""run.py with inference in TypeScript."""

import json
import os
import shutil
import sys

import pytest

from ports import free_settings
from runs import READY, STEP, eventually

sys.path.append(str(STEP / "inference_ts" / "tests"))

# A service that is ready, and needs a library.
STAND_IN = """
import { createServer } from "node:http";
import { sentence } from "library";
console.log(sentence, process.env.MODEL_DIR);
createServer((_, response) => response.end()).listen(Number(process.env.PORT), process.env.HOST);
process.on("SIGTERM", () => process.exit(0));
"""


@pytest.fixture(scope="module")
def installed():
    """Node, and a copy of the service below its libraries."""
    from typescript import installed_service

    with installed_service() as found:
        yield found


def test_over_rest_it_is_refused(run):
    started = run("--typescript")
    assert started.end() == 1
    assert started.lines[-1].endswith(
        ": inference in TypeScript needs --wires grpc, or a URL like grpc://127.0.0.1:8012"
    )


def test_its_libraries_are_installed_first(installed, run, step, wires):
    service = step / "inference_ts"
    (service / "library").mkdir(parents=True)
    (service / "app.ts").write_text(STAND_IN)
    (service / "library" / "index.js").write_text('export const sentence = "the library is here";')
    (service / "library" / "package.json").write_text(
        json.dumps({"name": "library", "type": "module", "main": "index.js"})
    )
    needs = {"dependencies": {"library": "file:library"}}
    (service / "package.json").write_text(json.dumps({"type": "module", **needs}))
    packages = {"": needs, "library": {}, "node_modules/library": {"resolved": "library", "link": True}}
    lock = {"lockfileVersion": 3, "requires": True, "packages": packages}
    (service / "package-lock.json").write_text(json.dumps(lock))

    started = run("--only", "inference", "--typescript", INFERENCE_URL=wires["INFERENCE_URL"], MODEL_DIR="")
    started.wait_for("^The libraries of inference_ts are not installed.")
    started.wait_for(f"^inference +the library is here {step / 'inference' / 'model'}$")
    started.wait_for("^Ready: inference$")
    started.interrupt()
    assert started.end() == 0 and started.is_gone()


@pytest.mark.skipif(os.name == "nt", reason="a link needs rights on Windows")
def test_the_pipeline_predicts_with_it(installed, start_run, model_dir, wires, tmp_path):
    ignored = shutil.ignore_patterns("node_modules", ".cache", "tests", "model", ".venv*")
    step = shutil.copytree(STEP, tmp_path / "step", ignore=ignored)
    (step / "inference_ts" / "node_modules").symlink_to(installed[1].parent / "node_modules")
    own = {"MODEL_DIR": str(model_dir), "DATABASE_URL": f"sqlite:///{tmp_path.as_posix()}/results.db"}
    settings = free_settings() | own | {"INFERENCE_URL": wires["INFERENCE_URL"]}
    run = start_run(step, ("--wires", "grpc", "--typescript"), settings)
    run.wait_for(READY, timeout=300)  # it may train, on a slow machine
    answers = []
    assert eventually(lambda: answers.append(run.predict()) or answers[-1].get("stored")), answers[-1]
    assert (answers[-1]["prediction"], answers[-1]["model"]["format"]) == ([3], "onnx")
    run.wait_for("^inference .*HTTP running on")
    run.kill("inference")
    again = "python run.py --wires grpc --typescript --only inference"
    run.wait_for(f"^inference .*ended .*: start it again with `{again}`$")
    status, body = run.ask()
    assert (status, body["error"]) == (503, "inference cannot be reached")
    run.interrupt()
    assert run.end() == 0 and run.is_gone()


def test_a_node_that_is_too_old_is_not_found(monkeypatch, tmp_path):
    import node

    monkeypatch.setattr(node.importlib.util, "find_spec", lambda name: None)
    for version, found in (("v22.1.0", False), ("v24.0.0", True), ("v26.1.0", True)):
        program = tmp_path / "node"
        program.write_text(f"#!/bin/sh\necho {version}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        assert (node.find_node() is not None) == found, version
    monkeypatch.setenv("PATH", "")
    assert node.find_node() is None
