"""Steps 03 and 04, copied side by side: the README of 04 followed to the letter, with containers and a browser.

Its tests are only collected here: they run as a part of their own."""

import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from playwright.sync_api import expect

from conftest import STEPS, skip, wait_until
from lab.containers import missing
from lab.launch import free_port
from test_page import DIGITS, draw
from test_starters import BLANKS_AND_DOTS, NOT_COPIED, blocks, doctest, on_port, only_collected, run

STEP = "04_docker"
LEFT = {  # what Docker has of a project
    "containers": "ps --all --quiet --filter label=com.docker.compose.project={}",
    "volumes": "volume ls --quiet --filter label=com.docker.compose.project={}",
    "networks": "network ls --quiet --filter label=com.docker.compose.project={}",
    "images": "image ls --all --quiet --filter label=com.docker.compose.project={}",
}


class Copy:
    """The two folders in an empty one, with a project and a port of their own. `folder` is that of step 04."""

    def __init__(self, place: Path):
        for step in ("03_pipeline", STEP):
            shutil.copytree(STEPS / step, place / step, ignore=NOT_COPIED)
        self.folder = place / STEP
        self.port, self.project = free_port(), f"copied-out-{uuid.uuid4().hex[:8]}"
        self.nameless_before = self.nameless()

    def run(self, script: str) -> str:
        """Run a shell script of the README, and return what it prints."""
        script = on_port(self.port, script).replace("project=inferir", f"project={self.project}")
        environment = {"COMPOSE_PROJECT_NAME": self.project, "PORT": str(self.port)}
        return run(f"set -o pipefail\n{script}", self.folder, seconds=1800, **environment)

    def left(self) -> dict[str, str]:
        found = {kind: self.run(f"docker {command.format(self.project)}") for kind, command in LEFT.items()}
        found["volumes without a name"] = "\n".join(self.nameless() - self.nameless_before)
        return {kind: ids for kind, ids in found.items() if ids}

    def nameless(self) -> set[str]:
        """Volumes that Docker creates because an image asks for them. They have no label of a project."""
        return {volume for volume in self.run("docker volume ls --quiet").split() if len(volume) == 64}


@pytest.fixture
def copy(tmp_path):
    if reason := missing():
        skip(reason)
    copy = Copy(tmp_path)
    yield copy
    copy.run("docker compose down --volumes --remove-orphans --timeout 5")
    copy.run("docker image prune --all --force --filter label=com.docker.compose.project=inferir")
    assert copy.left() == {}


@pytest.mark.timeout(1800)  # the first time, images are built
def test_the_copied_folders_do_what_the_readme_says_and_leave_nothing(copy, page):
    script = printed = ""
    drawn = False
    for language, content in blocks(copy.folder / "README.md"):
        if language == "text":
            until = time.monotonic() + 60
            while not doctest.OutputChecker().check_output(content, printed, BLANKS_AND_DOTS):
                # Storage commits a result, and writes its line of the log, a moment after the answer.
                assert re.search("SELECT|logs", script) and time.monotonic() < until, printed
                printed = copy.run(script)
        if language == "sh":
            script = only_collected(content)
            printed = copy.run(script)
        if not drawn and script:
            a_digit_is_drawn_recognized_and_in_postgresql(copy, page)
            drawn = True
    assert drawn and copy.left() == {}


def a_digit_is_drawn_recognized_and_in_postgresql(copy: Copy, page) -> None:
    page.goto(f"http://127.0.0.1:{copy.port}")
    draw(page, DIGITS[7])
    expect(page.locator("#prediction")).to_have_text("7")
    query = "SELECT prediction FROM results ORDER BY time DESC LIMIT 1"
    psql = f'docker compose exec -T database psql --username=inferir -At --command="{query}"'
    for _ in range(100):  # storage commits it a moment after the answer
        if copy.run(psql).strip() == "7":
            return
    pytest.fail("what was drawn is not in PostgreSQL")


KERNEL = """
from pathlib import Path
from lab.containers import Containers
stack = Containers(Path("."))
stack.docker("run", "--detach", "--rm", f"--label=com.docker.compose.project={stack.project}", IMAGE, "sleep", "600")
print(stack.project, flush=True)
input()
"""


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
def test_killing_a_notebooks_kernel_removes_a_container_that_compose_does_not_know(tmp_path):
    if reason := missing():
        skip(reason)
    code = KERNEL.replace("IMAGE", repr("python:3.13-slim"))  # which the images are built on
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=env, **pipes) as kernel:
        list_ids = f"docker {LEFT['containers'].format(kernel.stdout.readline().strip())}"
        before = run(list_ids, tmp_path, seconds=60)
        kernel.kill()
    assert before.strip()
    wait_until(lambda: not run(list_ids, tmp_path, seconds=60).strip(), timeout=60, pause=0.5)
