"""python run.py: it starts what it should, tells what happens, and leaves nothing behind."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from conftest import READY, STEP, eventually, free_settings, is_alive, is_taken, posix

SERVICES = ["gateway", "preprocess", "inference", "storage"]


# The services themselves


def test_the_pipeline_predicts_and_stores(real):
    assert eventually(lambda: real.predict()["stored"])
    status, page = real.ask("GET", "/results")
    assert status == 200 and page["results"][0]["prediction"] == 3


def test_a_killed_service_is_told_the_others_go_on_and_only_brings_it_back(real, start_run):
    real.kill("storage")
    real.wait_for("^storage .*ended .*: start it again with `python run.py --only storage`$")
    assert not real.predict()["stored"]

    again = start_run(STEP, ("--only", "storage"), real.settings)
    again.wait_for("^Ready: storage$")
    assert eventually(lambda: real.predict()["stored"])
    assert {line.split()[0] for line in again.lines} == {"storage", "Ready:"}
    again.interrupt()
    assert again.end() == 0 and again.is_gone()
    assert not real.predict()["stored"]


def test_after_an_interrupt_nothing_is_left(real):
    real.interrupt()
    assert real.end() == 0
    assert real.is_gone()
    assert "Traceback" not in real.text


# Stand-ins for them


def test_each_gets_its_address_and_all_other_settings(run, settings):
    shown = [*settings, "HOST", "PREPROCESS_VERSION"]
    started = run(SHOWN=json.dumps(shown), PREPROCESS_VERSION="v1", HOST="0.0.0.0")
    assert started.wait_for(READY)[1] == settings["PORT"]
    for service in SERVICES:
        got = json.loads(started.wait_for(rf"^{service} +(\{{.*)")[1])[service]
        own = {"PORT": settings["PORT"], "HOST": "0.0.0.0"}
        if service != "gateway":
            own = {"PORT": settings[f"{service.upper()}_URL"].split(":")[-1], "HOST": "127.0.0.1"}
        assert got == {**settings, "PREPROCESS_VERSION": "v1", **own}


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


@posix
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_stops_all(run, number):
    if signal.getsignal(getattr(signal, number)) == signal.SIG_IGN:
        pytest.skip("these tests were told to ignore it, as nohup does, and so is whatever they start")
    started = run(WORKERS_OF="storage")
    started.wait_for(READY)
    started.process.send_signal(getattr(signal, number))
    assert started.end() == 0
    assert started.is_gone()


def test_if_run_is_killed_nothing_is_left(run):
    started = run(WORKERS_OF="storage", STUBBORN="gateway")
    started.wait_for(READY)
    started.process.kill()
    started.end()
    assert started.is_gone()


@posix
def test_an_interrupt_while_it_starts_stops_all(run):
    started = run(UNREADY="inference")
    started.wait_for("^storage +pid")
    started.interrupt()
    assert started.end() == 0
    assert started.is_gone()
    assert "is ready" not in started.text


@posix
def test_a_second_interrupt_kills_at_once_a_service_that_does_not_leave(run):
    started = run(STUBBORN="storage")
    started.wait_for(READY)
    started.interrupt()
    started.wait_for("^Stopping")
    assert eventually(lambda: not is_alive(started.pid("gateway")))
    assert is_alive(started.pid("storage"))
    started.interrupt()
    assert started.end(5) == 0
    assert started.is_gone()


def test_a_service_that_does_not_leave_is_killed_in_time(run, step):
    program = (step / "run.py").read_text()
    (step / "run.py").write_text(program.replace("STOP_SECONDS = 60, 15", "STOP_SECONDS = 60, 0.5"))
    started = run(STUBBORN="storage")
    started.wait_for(READY)
    started.interrupt()
    assert started.end(10) == 0
    assert started.is_gone()


@posix
def test_a_killed_service_takes_its_workers_along(run):
    started = run(WORKERS_OF="storage")
    started.wait_for(READY)
    worker = int(started.wait_for(r"^storage +worker (\d+)$")[1])
    os.kill(started.pid("storage"), signal.SIGKILL)
    started.wait_for(
        r"^storage was ended by signal 9 \(Killed.*\): start it again with `python run.py --only storage`$"
    )
    assert eventually(lambda: not is_alive(worker))
    assert is_alive(started.pid("gateway"))


def test_when_none_is_left_it_ends(run):
    started = run("--only", "storage")
    started.wait_for("^Ready")
    os.kill(started.pid("storage"), signal.SIGTERM)
    assert started.end() == 1
    assert started.lines[-1] == "None of them runs any more."


def test_a_port_that_is_taken_is_told_before_anything_starts(run, settings):
    port = int(settings["STORAGE_URL"].split(":")[-1])
    with socket.create_server(("127.0.0.1", port)):
        started = run()
        assert started.end() == 1
    sentence = rf"storage cannot listen on 127.0.0.1:{port} \(.+\): stop the program that does, or change STORAGE_URL\."
    assert re.fullmatch(sentence, started.text)


@pytest.mark.parametrize(
    ("setting", "value", "example"),
    [
        ("PORT", "http", "8000"),
        ("PORT", "0", "8000"),
        ("PORT", "65536", "8000"),
        ("PORT", "8000,8001", "8000"),
        ("STORAGE_URL", "127.0.0.1:8003", "http://127.0.0.1:8003 or nats://127.0.0.1:4222"),
        (
            "STORAGE_URL",
            "http://127.0.0.1:8003,nats://127.0.0.1:4222",
            "http://127.0.0.1:8003 or nats://127.0.0.1:4222",
        ),
        ("INFERENCE_URL", "http://127.0.0.1", "http://127.0.0.1:8002 or grpc://127.0.0.1:8012"),
        ("INFERENCE_URL", "grpc://127.0.0.1:10", "http://127.0.0.1:8002 or grpc://127.0.0.1:8012"),
        ("PREPROCESS_URL", "http://127.0.0.1:8001,", "http://127.0.0.1:8001"),
        ("PREPROCESS_URL", "grpc://127.0.0.1:8011", "http://127.0.0.1:8001"),
    ],
)
def test_an_address_of_no_use_is_told(run, setting, value, example):
    started = run(**{setting: value})
    assert started.end() == 1
    assert started.text == f"{setting} is {value!r}: it should look like {example}"


def test_a_service_that_does_not_exist_is_told(run):
    started = run("--only", "postprocess")
    assert started.end() == 2
    assert "invalid choice: 'postprocess'" in started.text and "preprocess" in started.text


def test_a_service_that_fails_at_its_start_is_told_with_its_last_lines(run):
    started = run(FAILS="storage")
    assert started.end() == 1
    assert started.is_gone()
    end = started.text.split("storage ended with exit code 1 before it was ready. It said last:\n")[1]
    assert end.splitlines() == ['  {"storage": {}}', "  the disk is full"]


def test_a_service_that_does_not_get_ready_is_told_with_its_reason(run, step):
    program = (step / "run.py").read_text()
    (step / "run.py").write_text(program.replace("STOP_SECONDS = 60, 15", "STOP_SECONDS = 1, 15"))
    started = run(UNREADY="storage")
    assert started.end() == 1
    assert started.is_gone()
    assert started.lines[-1] == 'storage is not ready after 1 seconds: {"error": "the moon is in the way"}'


def test_each_url_of_this_machine_is_a_process(run, settings):
    two = f"{free_settings()['INFERENCE_URL']}, {settings['INFERENCE_URL']}"
    started = run(INFERENCE_URL=two, PREPROCESS_URL="https://preprocess.example.org")
    started.wait_for(READY)
    for url in two.split(", "):
        assert is_alive(started.pid(f"inference:{url.split(':')[-1]}")) or os.name == "nt"
    assert "preprocess" not in started.text


def test_with_all_on_other_machines_there_is_nothing_to_start(run):
    started = run("--only", "inference", INFERENCE_URL="http://inference.example.org")
    assert started.end() == 1
    assert started.text == "There is nothing to start: those services are on other machines."


def test_no_line_is_torn_or_lost(run):
    started = run(CHATTY="gateway storage")
    started.wait_for(READY)
    started.interrupt()
    assert started.end() == 0
    for service in ("gateway", "storage"):
        assert started.lines.count(f"{service:10}  " + 100 * service[0]) == 2000
        assert started.lines.count(f"{service:10}  x\N{REPLACEMENT CHARACTER}") == 1000


@posix
@pytest.mark.parametrize("no_color", ["", "1"])
def test_names_are_coloured_on_a_terminal_unless_that_is_not_wanted(step, settings, no_color):
    import pty

    ours, theirs = pty.openpty()
    env = {**os.environ, **settings, "NO_COLOR": no_color}
    process = subprocess.Popen([sys.executable, "run.py"], cwd=step, env=env, stdout=theirs, stderr=theirs)
    os.close(theirs)
    text = b""
    try:
        while b"pipeline is ready" not in text:
            text += os.read(ours, 1024)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()  # its guard stops the services
        os.close(ours)
    assert (b"\x1b[32mstorage   \x1b[0m  pid" in text) == (not no_color)
    assert (b"\x1b" in text) == (not no_color)


def test_in_a_pipe_there_are_no_colours(run):
    started = run()
    started.wait_for(READY)
    assert "\x1b" not in started.text


@posix
def test_when_nobody_reads_any_more_all_stop(step, settings):
    command = f"'{sys.executable}' run.py | head -3"
    done = subprocess.run(
        command, shell=True, cwd=step, env={**os.environ, **settings}, capture_output=True, text=True, timeout=30
    )
    assert len(done.stdout.splitlines()) == 3
    assert done.stderr == ""
    ports = [int(setting.split(":")[-1]) for setting in settings.values()]
    assert not any(map(is_taken, ports))
