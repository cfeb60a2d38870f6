"""What a compiler and a reader find: types, the lock, and a contract that is Python's.

What the service answers is tested with the same tests as Python's, in ../../inference/tests.
"""

import json
import runpy
import subprocess

from typescript import PIPELINE, SERVICE


def test_types_are_right(installed):
    node, folder = installed
    tsc = folder.parent / "node_modules" / "typescript" / "bin" / "tsc"
    done = subprocess.run([node, tsc], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_contract_is_that_of_python(installed):
    node, folder = installed
    code = "import * as contract from './contract.ts'; console.log(JSON.stringify(contract))"
    command = [node, "--input-type=module", "--eval", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    contract = runpy.run_path(str(PIPELINE / "inference" / "contract.py"))
    assert json.loads(done.stdout) == {name: contract[name] for name in ("NAME", "FEATURES", "LOW", "HIGH", "CLASSES")}


def test_the_lock_pins_what_is_asked_for_with_hashes_and_names_no_registry():
    asked = json.loads((SERVICE / "package.json").read_text())
    text = (SERVICE / "package-lock.json").read_text()
    packages = json.loads(text)["packages"]
    for name, version in {**asked["dependencies"], **asked["devDependencies"]}.items():
        assert packages[f"node_modules/{name}"]["version"] == version
    assert all("integrity" in package for path, package in packages.items() if path)
    assert '"resolved"' not in text
