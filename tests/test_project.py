"""The project's own promises: one style, and versions that agree wherever they are written."""

import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

from conftest import ROOT, STEPS

GROUPS = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
LOCK = (ROOT / "requirements.lock").read_text()
LOCKED = [Requirement(line) for line in re.findall(r"^([a-z0-9][^\\\n]*?) \\$", LOCK, re.MULTILINE)]


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_has_nothing_to_say(command):
    done = subprocess.run([sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_lock_holds_what_pyproject_asks_for_with_hashes():
    for wanted in map(Requirement, (line for group in GROUPS.values() for line in group)):
        versions = [next(iter(pin.specifier)).version for pin in LOCKED if pin.name == wanted.name]
        assert any(version in wanted.specifier for version in versions), f"{wanted}: lock anew (see the lock's head)"
    assert LOCK.count("--hash=sha256:") >= len(LOCKED) > 100
    assert "://" not in LOCK  # no registry's address


def test_every_dependency_says_what_it_is_for():
    text = (ROOT / "pyproject.toml").read_text()
    for group in GROUPS.values():
        for requirement in group:
            above, line = re.search(rf'(.*)\n *("{re.escape(requirement)}".*)', text).groups()
            assert "#" in line or above.strip().startswith("#") or Requirement(requirement).marker, requirement


REQUIREMENTS = {
    path: [Requirement(line) for line in path.read_text().splitlines() if not line.startswith("-r ")]
    for path in sorted(STEPS.rglob("requirements*.txt"))
    if ".venv" not in path.parts
}


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: str(path.relative_to(STEPS)))
def test_a_steps_requirements_are_those_of_the_lock(path):
    pins = REQUIREMENTS[path]
    assert pins or "-r " in path.read_text()
    for pin in pins:
        assert str(pin.specifier) in [str(locked.specifier) for locked in LOCKED if locked.name == pin.name], pin
        assert pin.name in [Requirement(line).name for line in GROUPS["steps"]]


def test_the_steps_group_is_what_the_steps_require():
    required = {pin.name for pins in REQUIREMENTS.values() for pin in pins}
    assert required == {Requirement(line).name for line in GROUPS["steps"]}


def test_python_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.15"
    for path in (ROOT / "README.md", *STEPS.glob("*/README.md")):
        assert "3.11 to 3.14" in path.read_text(), path
    code = (ROOT / "start.py").read_text()
    assert "else 14" in code and "(3, 11) <= sys.version_info[:2] <= (3, newest)" in code


TEXTS = [ROOT / "README.md", *sorted(STEPS.glob("*/README.md")), *sorted((ROOT / "notebooks").glob("*.ipynb"))]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(((?!https?:)[^)#\s]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target
