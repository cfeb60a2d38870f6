"""A step as one image: what its README says about containers, followed in a copy of the folder."""

import doctest
import shutil
import subprocess
import uuid

import pytest

from conftest import STEPS, skip, wait_until
from lab.containers import missing
from lab.launch import free_port
from test_starters import BLANKS_AND_DOTS, NOT_COPIED, fenced, on_port, run, sections

IMAGES = {"01_flask": "inferir-flask", "02_fastapi": "inferir-fastapi"}


@pytest.fixture
def name(request):
    """A name of our own for the image and the container. Both are gone after the test."""
    if reason := missing():
        skip(reason)
    name = f"{request.getfixturevalue('step')}-{uuid.uuid4().hex[:8]}"
    yield name
    for command in (["rm", "--force", name], ["image", "rm", "--force", name]):
        subprocess.run(["docker", *command], capture_output=True, timeout=60)


@pytest.mark.parametrize("step", IMAGES)
def test_a_step_runs_in_a_container_as_its_readme_says(step, name, tmp_path):
    folder = shutil.copytree(STEPS / step, tmp_path / "copied out", ignore=NOT_COPIED)
    port, printed = free_port(), ""
    for language, content in fenced(sections(folder / "README.md")["Run it in a container"]):
        if language == "sh":
            script = on_port(port, content.replace("8000:8000", "8000:INSIDE")).replace("INSIDE", "8000")
            printed = run(script.replace(IMAGES[step], name), folder)
        elif language == "text":
            assert doctest.OutputChecker().check_output(content, printed, BLANKS_AND_DOTS), printed
    left = ["docker", "ps", "--all", "--quiet", f"--filter=name={name}"]  # --rm removes it a moment after it has ended
    wait_until(lambda: not subprocess.run(left, capture_output=True, text=True, timeout=60).stdout)
