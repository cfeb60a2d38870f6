"""Step 04, copied out: its README followed to the letter, with real containers and a browser, until nothing is left."""

import shutil
import uuid

import pytest
from playwright.sync_api import expect

from conftest import STEPS, skip
from lab.containers import missing
from lab.launch import free_port
from test_page import DIGITS, draw
from test_starters import BLANKS_AND_DOTS, blocks, doctest, on_port, run

STEP = STEPS / "04_docker"
LEFT = {  # what Docker keeps of a project
    "containers": "ps --all --quiet --filter label=com.docker.compose.project={}",
    "volumes": "volume ls --quiet --filter label=com.docker.compose.project={}",
    "networks": "network ls --quiet --filter label=com.docker.compose.project={}",
    "images": "image ls --quiet {}-*",
}


class Copy:
    """The step's folder in another place, with a project and a port of its own."""

    def __init__(self, folder):
        ignored = shutil.ignore_patterns(".venv", "__pycache__", ".*_cache", "model", "*.dump", "api_key")
        self.folder = shutil.copytree(STEP, folder / "copied out", ignore=ignored)
        self.port, self.project = free_port(), f"copied-out-{uuid.uuid4().hex[:8]}"
        self.nameless_before = self.nameless()

    def run(self, script: str) -> str:
        """Run a shell script of the README, and return what it prints."""
        script = f"set -o pipefail\n{on_port(self.port, script)}"
        return run(script, self.folder, seconds=1800, COMPOSE_PROJECT_NAME=self.project, PORT=str(self.port))

    def left(self) -> dict[str, str]:
        found = {kind: self.run(f"docker {command.format(self.project)}") for kind, command in LEFT.items()}
        found["volumes without a name"] = "\n".join(self.nameless() - self.nameless_before)
        return {kind: ids for kind, ids in found.items() if ids}

    def nameless(self) -> set[str]:
        """Volumes that Docker makes because an image asks for them. Nothing says whose they are."""
        return {volume for volume in self.run("docker volume ls --quiet").split() if len(volume) == 64}


@pytest.fixture
def copy(tmp_path):
    if reason := missing():
        skip(reason)
    copy = Copy(tmp_path)
    yield copy
    copy.run("docker compose down --volumes --rmi local --remove-orphans --timeout 5")
    assert copy.left() == {}


@pytest.mark.timeout(2700)  # images are built and the step's own tests run
def test_a_copied_out_step_does_what_its_readme_says_and_leaves_nothing(copy, page, capsys):
    printed, drawn = None, False
    for language, content in blocks(copy.folder / "README.md"):
        if language == "text":
            assert doctest.OutputChecker().check_output(content, printed, BLANKS_AND_DOTS), printed
        if language == "sh":
            printed = copy.run(content)
            if "pytest" in content:
                with capsys.disabled():
                    print(printed)  # the tables of faults and of scaling
        if not drawn and printed is not None:
            a_digit_is_drawn_recognized_and_in_postgresql(copy, page)
            drawn = True
    assert drawn and copy.left() == {}


def a_digit_is_drawn_recognized_and_in_postgresql(copy: Copy, page) -> None:
    page.goto(f"http://127.0.0.1:{copy.port}")
    draw(page, DIGITS[7])
    expect(page.locator("#digit")).to_have_text("7")
    query = "SELECT prediction FROM results ORDER BY time DESC LIMIT 1"
    psql = f'docker compose exec -T database psql --username=inferir -At --command="{query}"'
    for _ in range(100):  # storage commits it a moment after the answer
        if copy.run(psql).strip() == "7":
            return
    pytest.fail("what was drawn is not in PostgreSQL")
