"""Each step works alone: its folder is copied out and its README followed to the letter, in an environment made
from its own requirements.txt. The environments are kept in .cache/starters, so that only the first run makes them.

Step 01 is followed with pip and trains the whole model. In the others, uv stands in for pip, since it has the same
packages in its cache, and the same train.py gets fewer rows.

The step's own tests are run elsewhere, each as a part of tests/run.py, in the project's environment with the same
versions. Here, pytest only collects them: all that they import is in the folder and in what the README installs."""

import doctest
import functools
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

import start
from conftest import ROOT, STEPS, wait_until
from contract import JSON
from lab.launch import Service, free_port

# A step joins with a line here: its folder, and what one of the commands that start it looks like.
SERVERS = {
    "01_flask": r"python app\.py|waitress-serve",
    "02_fastapi": r"python app\.py",
    "03_pipeline": r"python run\.py",
}

# The services behind the gateway of step 03 listen here: their own ports may be taken.
BEHIND = {setting: free_port() for setting in ("PREPROCESS_URL", "INFERENCE_URL", "STORAGE_URL")}

NOT_COPIED = shutil.ignore_patterns("model", ".venv*", "__pycache__", ".*cache", "node_modules")
BLANKS_AND_DOTS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS  # curl prints what ends without a line's end


WITH_PIP = "01_flask"
FEWER_ROWS = {"COPIES = 15": "COPIES = 1", "DRAWN = 700": "DRAWN = 50"}  # of train.py

# Other tests follow these sections: test_docker_readmes.py, and those of another model.
FOLLOWED_ELSEWHERE = ("Run it in a container", "Make it yours")


def blocks(readme: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a README as (language, content), in the sections that are followed here."""
    kept = [text for title, text in sections(readme).items() if not title.startswith(FOLLOWED_ELSEWHERE)]
    return fenced("".join(kept))


def sections(readme: Path) -> dict[str, str]:
    """The text of a README by the titles of its sections. What stands before the first one is at ""."""
    parts = re.split(r"^## (.*)\n", readme.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(["", *parts[1::2]], parts[0::2], strict=True))


def fenced(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def only_collected(script: str) -> str:
    """The script with its tests collected, not run."""
    return re.sub(r"\bpython -m pytest\b", "python -m pytest --collect-only -q", script)


def with_uv(script: str) -> str:
    """The script with uv in place of venv and pip."""
    uv = shlex.quote(str(start.BIN / "uv"))
    script = script.replace("python3 -m venv", f"{uv} venv --quiet --python {shlex.quote(sys.executable)}")
    script = re.sub(r"(\S+)/bin/pip install", rf"{uv} pip install --quiet --python \1", script)
    return re.sub(r"^pip install", f"{uv} pip install --quiet", script, flags=re.MULTILINE)


def train_on_fewer_rows(step: Path) -> None:
    """Change train.py in a copied-out step: it takes a second or two."""
    path = step / "inference" / "train.py" if (step / "inference").exists() else step / "train.py"
    text = path.read_text(encoding="utf-8")
    for line, changed in FEWER_ROWS.items():
        assert text.count(line) == 1, line
        text = text.replace(line, changed)
    path.write_text(text, encoding="utf-8")


def without_numbers(text: str) -> str:
    return re.sub(r"\d[\d,.]*", "...", text)


def run(script: str, folder: Path, path: Path | None = None, seconds: float = 600, **env: str) -> str:
    """Run a shell script in `folder`, with the programs in `path` as if activated, and return what it prints."""
    script = script.replace("python3 ", f"{shlex.quote(sys.executable)} ")
    done = subprocess.run(
        ["bash", "-ec", script],
        cwd=folder,
        env=environment(path) | env,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def works(ask: Callable[[], requests.Response]) -> bool:
    """Whether a step answers, and stores if it is to store: the gateway of step 03 is ready before the others are."""
    answer = ask().json()
    return "prediction" in answer and bool(answer.get("stored", True))


def environment(path: Path | None) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    env |= {setting: f"http://127.0.0.1:{port}" for setting, port in BEHIND.items()}
    env["PIP_COMPILE"] = "0"  # only what is imported, when it is
    return {**env, "PATH": f"{path}{os.pathsep}{env['PATH']}", "VIRTUAL_ENV": str(path.parent)} if path else env


def make_environment(step: str, install: str) -> Path:
    """Follow the README's first block once, and return the folder of the programs it installed."""
    requirements = sorted(path for path in (STEPS / step).rglob("requirements*.txt") if ".venv" not in path.parts)
    pins = "".join(path.read_text() for path in requirements)
    key = hashlib.sha256(f"{sys.version}{install}{pins}".encode()).hexdigest()[:16]
    folder = ROOT / ".cache" / "starters" / f"{step}-{key}"
    complete = folder / "complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for path in requirements:
            copy = folder / path.relative_to(STEPS / step)
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(path, copy)
        run(install, folder)
        complete.touch()
    return folder / ".venv" / "bin"


@pytest.mark.skipif(os.name == "nt", reason="the README's `sh` blocks need a POSIX shell")
@pytest.mark.parametrize("step", SERVERS)
def test_a_copied_out_step_does_what_its_readme_says(step, tmp_path):
    folder = tmp_path / "copied out"
    shutil.copytree(STEPS / step, folder, ignore=NOT_COPIED)
    (_, install), *rest = blocks(folder / "README.md")[1:]  # the first block is the diagram
    if step != WITH_PIP:
        train_on_fewer_rows(folder)
        install = with_uv(install)
    path = make_environment(step, install)
    request = (folder / "sample_request.json").read_bytes()

    service, script, printed, followed = None, "", None, 0
    try:
        for language, content in rest:
            if language == "text":
                if script == "python train.py\n" and step != WITH_PIP:
                    content, printed = without_numbers(content), without_numbers(printed)
                assert doctest.OutputChecker().check_output(content, printed, BLANKS_AND_DOTS), printed
                continue
            if language != "sh":
                continue
            followed += 1
            script = content if step == WITH_PIP else with_uv(content)
            if re.search(SERVERS[step], content):
                if service:
                    service.stop()
                port = free_port()
                command = ["bash", "-c", on_port(port, content.strip())]
                service = Service(command, folder, port, environment(path))
                service.wait("/readyz", timeout=120)  # step 03 trains first
                ask = functools.partial(requests.post, service.url + "/inferir", data=request, headers=JSON, timeout=10)
                wait_until(lambda: works(ask), timeout=60, pause=0.2)  # noqa: B023
                assert ask().json()["prediction"] == [3], content
            else:
                printed = run(only_collected(on_port(service and port, script)), folder, path)
    finally:
        if service:
            service.stop()
    assert followed >= 6, "the README has lost some of its commands"


def on_port(port: int | None, script: str) -> str:
    """The script with another port for the one it names: that may be taken here."""
    return re.sub(r"\b(8000|5000)\b", str(port), script) if port else script


@pytest.mark.parametrize("step", SERVERS)
def test_the_sample_request_is_one_row(step):
    assert len(json.loads((STEPS / step / "sample_request.json").read_text())["features"]) == 64
