"""The project's own promises: one style, and versions that agree wherever they are written."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from conftest import ROOT, STEPS
from copies import SERVICES

GROUPS = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
LOCK = (ROOT / "requirements.lock").read_text()
LOCKED = [Requirement(line) for line in re.findall(r"^([a-z0-9][^\\\n]*?) \\$", LOCK, re.MULTILINE)]


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_has_nothing_to_say(command):
    done = subprocess.run([sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# Services have modules of the same names, so each folder is checked by itself, from inside.
TYPED = {
    ".": ["start.py", "prepare.py"],
    "tests": ["run.py", "trained.py"],
    "notebooks": ["lab"],
    "steps/01_flask": ["."],
    "steps/02_fastapi": ["."],
    "steps/03_pipeline": sorted(path.name for path in (STEPS / "03_pipeline").glob("*.py")),
    **{f"steps/03_pipeline/{service}": ["."] for service in SERVICES},
    "steps/04_docker": ["roll.py"],
}


@pytest.mark.parametrize("folder", TYPED)
def test_types_are_right(folder):
    # One cache for all: what libraries declare is read once.
    options = [f"--config-file={ROOT}/pyproject.toml", f"--cache-dir={ROOT}/.cache/mypy"]
    command = [sys.executable, "-m", "mypy", *options, *TYPED[folder]]
    done = subprocess.run(command, cwd=ROOT / folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_python_file_outside_of_tests_has_its_types_checked():
    hidden = {".venv", ".cache", "node_modules", "tests", "exercises", "scratch"}  # the last two are as readers write
    paths = [*ROOT.glob("*.py"), *(ROOT / "notebooks").rglob("*.py"), *STEPS.rglob("*.py")]
    found = {path.relative_to(ROOT) for path in paths} - {Path("conftest.py")}
    for path in (path for path in found if not hidden & {*path.parts}):
        assert any(path.is_relative_to(Path(folder, what)) for folder in TYPED for what in TYPED[folder]), path


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize(
    "command",
    [
        *(["check_jsonschema", "--builtin-schema=vendor.github-workflows", str(path)] for path in WORKFLOWS),
        ["pre_commit", "validate-config"],
    ],
    ids=lambda command: command[0],
)
def test_the_settings_of_what_runs_the_tests_are_valid(command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_lock_holds_what_pyproject_asks_for_with_hashes():
    for wanted in map(Requirement, (line for group in GROUPS.values() for line in group)):
        versions = [next(iter(pin.specifier)).version for pin in LOCKED if pin.name == wanted.name]
        assert any(version in wanted.specifier for version in versions), f"{wanted}: make the lock again (see its head)"
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


TEXTS = [ROOT / "README.md", *sorted(STEPS.glob("*/README.md"))]
TEXTS += [path for path in sorted((ROOT / "notebooks").iterdir()) if path.suffix in (".ipynb", ".md")]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(((?!https?:)[^()#\s]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target
