"""start.py as its users meet it: on a fresh machine, again, after an interruption, and where something is missing."""

import ast
import itertools
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import start

WITH_UV = str(start.BIN)  # a PATH entry that holds uv; without it, start.py has to fetch uv
LOCKED = r"^(?:uv|pytest|iniconfig|packaging|pluggy|pygments|colorama)==(?:.*\\\n)*.*\n"
POSIX_ONLY = pytest.mark.skipif(os.name == "nt", reason="uses POSIX signals and links")


@pytest.fixture
def project(tmp_path) -> Path:
    """start.py with a lock of its own, cut down to uv and pytest and what they need: the whole takes minutes."""
    folder = tmp_path / "a project"
    folder.mkdir()
    shutil.copy(start.ROOT / "start.py", folder)
    blocks = re.findall(LOCKED, start.LOCK.read_text(), re.MULTILINE)
    assert len(blocks) >= 6
    (folder / "requirements.lock").write_text("".join(blocks))
    return folder


def run(project: Path, *arguments: str, path: str = "", **env: str) -> subprocess.CompletedProcess:
    done = subprocess.run(command(project, *arguments), env=environment(path, **env), **PIPES, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    return done


PIPES = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL}


def command(project: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(project / "start.py"), *arguments]


def environment(path: str, **more: str) -> dict[str, str]:
    """This environment with no uv on PATH but the one in `path`."""
    folders = [folder for folder in os.environ["PATH"].split(os.pathsep) if not shutil.which("uv", path=folder)]
    return {**os.environ, "PATH": os.pathsep.join([path, *folders] if path else folders), **more}


def test_a_fresh_set_up_hands_over_and_a_second_run_does_it_at_once(project):
    first = run(project, "test", "--version", path=WITH_UV)
    assert first.returncode == 0, first.stderr
    assert "Setting up" in first.stdout
    assert first.stdout.rstrip().splitlines()[-1].startswith("pytest ")

    second = run(project, "test", "--version", path=WITH_UV)
    assert re.fullmatch(r"pytest \S+\n", second.stdout), second.stdout

    alone = [str(project / ".venv" / start.BIN.name / "python"), "-m", "pytest", "--version"]
    extra = [seconds(command(project, "test", "--version")) - seconds(alone) for _ in range(3)]
    assert statistics.median(extra) < 5  # a tenth of it where nothing else runs
    assert "ok    set-up" in run(project, "check").stdout.splitlines()


def seconds(command: list[str]) -> float:
    """How long a command takes."""
    begin = time.monotonic()
    subprocess.run(command, **PIPES, check=True, timeout=60)
    return time.monotonic() - begin


def test_further_arguments_and_the_exit_code_are_those_of_the_program(project):
    (project / "test_one.py").write_text("def test_passes(): pass\ndef test_fails(): assert False\n")
    assert run(project, "test", "-q", "-k", "passes", path=WITH_UV).returncode == 0
    fails = run(project, "test", "-q", "-k", "fails", path=WITH_UV)
    assert fails.returncode == 1
    assert "1 failed, 1 deselected" in fails.stdout


def test_a_changed_lock_is_followed(project):
    run(project, "test", "--version", path=WITH_UV)
    lock = project / "requirements.lock"
    lock.write_text(re.sub(r"^uv==(?:.*\\\n)*.*\n", "", lock.read_text(), flags=re.MULTILINE))
    again = run(project, "test", "--version", path=WITH_UV)
    assert "Setting up" in again.stdout
    assert not list((project / ".venv").rglob("uv-*.dist-info"))


@POSIX_ONLY
def test_a_set_up_that_was_killed_is_mended(project):
    process = subprocess.Popen(command(project, "test", "--version"), env=environment(""), stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not list((project / ".venv").glob("bin/python")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait(timeout=10)
    mended = run(project, "test", "--version", path=WITH_UV)
    assert "Setting up" in mended.stdout
    assert mended.stdout.rstrip().splitlines()[-1].startswith("pytest ")


@POSIX_ONLY
def test_an_environment_whose_python_is_gone_is_made_anew(project):
    run(project, "test", "--version", path=WITH_UV)
    python = project / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(project / "uninstalled")
    mended = run(project, "test", "--version", path=WITH_UV)
    assert mended.returncode == 0
    assert "Setting up" in mended.stdout


def test_a_package_that_is_not_the_one_in_the_lock_is_refused(project):
    lock = project / "requirements.lock"
    lock.write_text(re.sub(r"(?<=sha256:)\w{64}", "0" * 64, lock.read_text()))
    for path in ("", WITH_UV):
        done = run(project, "test", "--version", path=path)
        assert done.returncode == 1
        assert not (project / ".venv" / "set-up-is-complete").exists()


@pytest.mark.parametrize("path", ["", WITH_UV], ids=["without uv", "with uv on PATH"])
def test_without_a_network_a_sentence_says_so(project, tmp_path, path):
    nowhere = dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"), "http://127.0.0.1:9")
    empty = {"UV_CACHE_DIR": str(tmp_path / "cache"), "PIP_NO_CACHE_DIR": "1", "PIP_FIND_LINKS": ""}
    empty["UV_HTTP_RETRIES"] = "0"
    done = run(project, path=path, **nowhere, **empty)
    assert done.returncode == 1
    *_, said, last = done.stderr.splitlines()
    tool = "uv" if path else "python"
    assert re.match(rf"The set-up is not complete: `{tool}.*` failed, and says why above", last), done.stderr
    assert re.search("connect|proxy|No matching distribution", done.stderr, re.IGNORECASE), said


@POSIX_ONLY
def test_a_uv_that_does_not_work_and_what_pip_and_python_are_told_elsewhere_change_nothing(project, tmp_path):
    shim = tmp_path / "shims" / "uv"  # as pyenv makes them
    shim.parent.mkdir()
    shim.write_text("#!/bin/sh\necho 'pyenv: uv: command not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    (tmp_path / "plugin.py").write_text("raise SystemExit('a plugin of somebody else')\n")
    elsewhere = {name: str(tmp_path / "elsewhere") for name in ("PIP_TARGET", "PIP_PREFIX")}
    env = {"PIP_USER": "1", "PYTHONPATH": str(tmp_path), "PYTEST_PLUGINS": "plugin", **elsewhere}
    done = run(project, "test", "--version", path=str(shim.parent), **env)
    assert done.returncode == 0, done.stderr
    assert "Fetching uv" in done.stdout
    assert done.stdout.rstrip().splitlines()[-1].startswith("pytest ")
    assert not (tmp_path / "elsewhere").exists()


def test_a_mirror_of_pip_is_used_by_uv(project, tmp_path):
    mirror = {"PIP_INDEX_URL": "http://127.0.0.1:9/a-mirror", "UV_CACHE_DIR": str(tmp_path), "UV_HTTP_RETRIES": "0"}
    done = run(project, path=WITH_UV, **mirror)
    assert done.returncode == 1
    assert "127.0.0.1:9/a-mirror" in done.stderr


@POSIX_ONLY
def test_a_home_that_cannot_be_written_to_is_shown_as_the_cause(project, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.write_text("")
    for name in ("XDG_CACHE_HOME", "UV_CACHE_DIR", "UV_NO_CACHE"):
        monkeypatch.delenv(name, raising=False)
    done = run(project, path=WITH_UV, HOME=str(home))
    assert done.returncode == 1
    assert str(home) in done.stderr
    assert "`uv` failed, and says why above" in done.stderr.splitlines()[-1]


@POSIX_ONLY
def test_a_folder_with_a_colon_in_its_name_is_shown_as_the_cause(project):
    with_colon = project.rename(project.parent / "a:project")
    done = run(with_colon)
    assert done.returncode == 1
    assert "PATH separator" in done.stdout + done.stderr
    assert "failed, and says why above" in done.stderr.splitlines()[-1]


@POSIX_ONLY
@pytest.mark.parametrize("kind", ["file", "link", "link to nothing"])
def test_a_venv_that_is_no_folder_is_left_alone(project, tmp_path, kind):
    venv, target = project / ".venv", tmp_path / "elsewhere"
    if kind == "file":
        venv.write_text("mine")
    else:
        venv.symlink_to(target)
    if kind == "link":
        target.mkdir()
    done = run(project)
    assert (done.returncode, done.stderr) == (
        1,
        f"{venv} is a link or a file, not a folder: move it away. Then run this again.\n",
    )
    assert os.path.lexists(venv)


def test_a_folder_of_another_user_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(start, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SystemExit, match="You may not write to .*: copy the project to a folder of your own"):
        start.set_up()


@pytest.mark.parametrize("version", [(3, 6, 15), (3, 10, 13), (3, 15, 0)])
def test_another_python_is_told_which_to_get(version):
    code = f"import runpy, sys; sys.version_info = {version}; runpy.run_path('start.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=start.ROOT, **PIPES, timeout=60)
    sentence = r"inferir needs Python 3.11 to 3.1[34], this is {}.{}: get one from python.org and .*\n".format(*version)
    assert done.returncode == 1
    assert re.fullmatch(sentence, done.stderr), done.stderr


def test_on_a_mac_with_an_intel_processor_the_newest_python_is_3_13():
    code = (
        "import platform, runpy, sys; sys.version_info = (3, 14, 0); sys.platform = 'darwin';"
        "platform.machine = lambda: 'x86_64'; runpy.run_path('start.py', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=start.ROOT, **PIPES, timeout=60)
    assert done.stderr.startswith("inferir needs Python 3.11 to 3.13, this is 3.14"), done.stderr


def test_python_3_6_can_parse_start_py():
    ast.parse((start.ROOT / "start.py").read_text(), feature_version=(3, 6))


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [
        ([], ["tests/run.py"]),
        (["--quick"], ["tests/run.py", "--quick"]),
        (["-k", "name"], ["-m", "pytest", "-k", "name"]),
    ],
)
def test_without_arguments_of_pytest_every_part_is_run(arguments, begins):
    assert start.program("test", arguments) == begins


def test_a_full_disk_is_told_before_anything_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(start, "VENV", tmp_path / ".venv")
    start.VENV.mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**8))
    with pytest.raises(SystemExit, match="The disk is nearly full: free 2 GB"):
        start.set_up()
    assert start.VENV.exists()


def test_an_environment_in_use_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(start, "VENV", tmp_path / ".venv")
    start.VENV.mkdir()
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as on Windows, while a program runs from it
    clock = itertools.count(step=5)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with pytest.raises(SystemExit, match="cannot be replaced: stop what runs from it"):
        start.set_up()


def test_an_unknown_command_is_told_the_known_ones(project):
    done = run(project, "tset")
    assert (done.returncode, done.stderr) == (
        1,
        "There is no `start.py tset`: it is lab (or nothing), test, check or prepare.\n",
    )
    assert not (project / ".venv").exists()


def test_help_names_the_commands(project):
    for flag in ("-h", "--help"):
        done = run(project, flag)
        assert done.returncode == 0
        assert re.findall(r"^python3 start.py ?(\w*)", done.stdout, re.MULTILINE) == [
            "",
            "test",
            "test",
            "test",
            "check",
            "prepare",
        ]


def test_check_prints_a_line_for_each_thing_with_its_remedy(project):
    with socket.socket() as listener:
        port = next((port for port in start.PORTS if listener_takes(listener, port)), None)
        done = run(project, "check", PATH="")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert all(re.match(r"ok    \S|todo  [^:]+: \S", line) for line in lines), done.stdout
    assert lines[0] == "ok    Python {}.{}.{}".format(*sys.version_info)
    assert "todo  set-up: run `python3 start.py prepare` once, on a good network" in lines
    assert f"todo  port {port} ({start.PORTS[port]}): stop the program that listens on it" in lines
    assert any(line.startswith("todo  Docker daemon") for line in lines)  # no docker on an empty PATH
    assert not (project / ".venv").exists()


def listener_takes(listener: socket.socket, port: int) -> bool:
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        return True
    except OSError:
        return False
