"""python run.py starts what it should, and says what happens. The services are stand-ins."""

import json
import os
import subprocess
import sys

import pytest

from ports import free_settings, is_taken, port_of
from runs import READY, is_alive

SERVICES = ["gateway", "preprocess", "inference", "storage"]
posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such thing")


def test_each_gets_its_address_and_all_other_settings(run, settings):
    shown = [*settings, "HOST", "PREPROCESS_VERSION", "STORAGE_HTTP_URL"]
    started = run(SHOWN=json.dumps(shown), PREPROCESS_VERSION="v1", HOST="0.0.0.0")
    assert started.wait_for(READY)[1] == settings["PORT"]
    for service in SERVICES:
        own = {"PORT": settings["PORT"], "HOST": "0.0.0.0"}
        if service != "gateway":
            own = {"PORT": str(port_of(settings[f"{service.upper()}_URL"])), "HOST": "127.0.0.1"}
        assert started.shown(service) == {**settings, "PREPROCESS_VERSION": "v1", "STORAGE_HTTP_URL": None, **own}


def test_a_model_is_trained_if_there_is_none_and_only_then(run, tmp_path):
    for trains in (True, False):
        # a relative path means the same to all: relative to where run.py was started
        started = run("--only", "inference", MODEL_DIR="mine", cwd=tmp_path)
        started.wait_for("^Ready: inference$")
        assert (tmp_path / "mine" / "manifest.json").exists()
        assert ("inference   trained" in started.lines) == trains
        started.interrupt()
        assert started.end() == 0
    without = run("--only", "preprocess", "gateway", "--only", "storage", MODEL_DIR="none", cwd=tmp_path)
    without.wait_for("^Ready: gateway, preprocess, storage$")
    assert not (tmp_path / "none").exists() and "inference" not in without.text


def test_a_training_that_fails_starts_nothing(run):
    started = run(FAILS="train")
    assert started.end() == 1
    assert started.lines[-2:] == ["inference   no memory", "The training failed: read above why."]
    assert " pid " not in started.text


def test_a_service_that_does_not_exist_is_refused(run):
    started = run("--only", "postprocess")
    assert started.end() == 2
    assert "invalid choice: 'postprocess'" in started.text and "preprocess" in started.text


def test_a_service_that_fails_at_its_start_is_shown_with_its_last_lines(run):
    started = run(FAILS="storage")
    assert started.end() == 1
    assert started.is_gone()
    end = started.text.split("storage ended with exit code 1 before it was ready. Its last lines:\n")[1]
    assert end.splitlines() == ['  {"storage": {}}', "  the disk is full"]


def test_a_service_that_does_not_get_ready_is_shown_with_its_reason(run, change):
    change("supervisor.py", "READY_SECONDS = 60", "READY_SECONDS = 5")
    started = run(UNREADY="storage")
    assert started.end() == 1
    assert started.is_gone()
    assert started.lines[-1] == 'storage is not ready after 5 seconds: {"error": "the moon is in the way"}'


def test_each_url_on_this_machine_is_a_process(run, settings):
    two = f"{free_settings()['INFERENCE_URL']}, {settings['INFERENCE_URL']}"
    started = run(INFERENCE_URL=two, PREPROCESS_URL="https://preprocess.example.org")
    started.wait_for(READY)
    for url in two.split(", "):
        assert is_alive(started.pid(f"inference:{port_of(url)}")) or os.name == "nt"
    assert "preprocess" not in started.text


def test_with_all_on_other_machines_there_is_nothing_to_start(run):
    started = run("--only", "inference", INFERENCE_URL="http://inference.example.org")
    assert started.end() == 1
    assert started.text == "There is nothing to start: those services are on other machines."


def test_when_the_last_service_ends_it_ends(run):
    started = run("--only", "storage")
    started.wait_for("^Ready")
    started.kill("storage")
    assert started.end() == 1
    assert started.lines[-1] == "All processes have ended."


def test_no_line_is_torn_or_lost(run):
    started = run(CHATTY="gateway storage")
    started.wait_for(READY)
    started.interrupt()
    assert started.end() == 0
    for service in ("gateway", "storage"):
        assert started.lines.count(f"{service:10}  " + 100 * service[0]) == 2000
        assert started.lines.count(f"{service:10}  x\N{REPLACEMENT CHARACTER}") == 1000


def test_in_a_pipe_there_are_no_colours(run):
    started = run("--only", "storage")
    started.wait_for("^Ready")
    assert "\x1b" not in started.text


@posix
@pytest.mark.parametrize("no_color", ["", "1"])
def test_names_are_coloured_on_a_terminal_unless_that_is_not_wanted(step, settings, no_color):
    import pty

    ours, theirs = pty.openpty()
    env = {**os.environ, **settings, "NO_COLOR": no_color}
    command = [sys.executable, "run.py", "--only", "storage"]
    process = subprocess.Popen(command, cwd=step, env=env, stdout=theirs, stderr=theirs)
    os.close(theirs)
    text = b""
    try:
        while b"Ready" not in text:
            text += os.read(ours, 1024)
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()  # its guard stops the services
        os.close(ours)
    assert (b"\x1b[32mstorage   \x1b[0m  pid" in text) == (not no_color)
    assert (b"\x1b" in text) == (not no_color)


@posix
def test_when_nobody_reads_any_more_all_stop(step, settings):
    command = f"'{sys.executable}' run.py | head -3"
    done = subprocess.run(
        command, shell=True, cwd=step, env={**os.environ, **settings}, capture_output=True, text=True, timeout=30
    )
    assert len(done.stdout.splitlines()) == 3
    assert done.stderr == ""
    assert not any(is_taken(port_of(setting)) for setting in settings.values())
