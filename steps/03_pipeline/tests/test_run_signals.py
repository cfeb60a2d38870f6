"""Ctrl-C, and everything else that ends run.py or one of its processes: nothing is left. The services are stand-ins."""

import os
import signal

import pytest

from ports import free_port
from runs import READY, eventually, is_alive

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has none of these signals")


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_stops_all(run, number):
    if signal.getsignal(getattr(signal, number)) == signal.SIG_IGN:
        pytest.skip("nohup has started these tests: they ignore this signal, and so does what they start")
    started = run(WORKERS_OF="storage")
    started.wait_for(READY)
    started.process.send_signal(getattr(signal, number))
    assert started.end() == 0
    assert started.is_gone()


def test_if_run_is_killed_nothing_is_left_of_services_workers_and_broker(run, wires):
    started = run(**wires, WORKERS_OF="storage", STUBBORN="gateway")
    started.wait_for(READY)
    started.process.kill()
    started.end()
    assert started.is_gone()


def test_an_interrupt_while_it_starts_stops_all(run):
    started = run(UNREADY="inference")
    started.wait_for("^storage +pid")
    started.interrupt()
    assert started.end() == 0
    assert started.is_gone()
    assert "is ready" not in started.text


def test_a_second_interrupt_kills_at_once_a_service_that_does_not_stop(run):
    started = run(STUBBORN="storage")
    started.wait_for(READY)
    started.interrupt()
    started.wait_for("^Stopping")
    assert eventually(lambda: not is_alive(started.pid("gateway")))
    assert is_alive(started.pid("storage"))
    started.interrupt()
    assert started.end(10) == 0
    assert started.is_gone()


def test_a_service_that_does_not_stop_is_killed_in_time(run, change):
    change("supervisor.py", "STOP_SECONDS = 15", "STOP_SECONDS = 0.5")
    started = run("--only", "storage", STUBBORN="storage")
    started.wait_for("^Ready")
    started.interrupt()
    assert started.end(10) == 0
    assert started.is_gone()


def test_a_killed_service_takes_its_workers_along(run):
    started = run("--only", "preprocess", "storage", WORKERS_OF="storage")
    started.wait_for("^Ready")
    worker = int(started.wait_for(r"^storage +worker (\d+)$")[1])
    started.kill("storage")
    started.wait_for(
        r"^storage was ended by signal 9 \(Killed.*\): start it again with `python run.py --only storage`$"
    )
    assert eventually(lambda: not is_alive(worker))
    assert is_alive(started.pid("preprocess"))


def test_of_several_processes_the_one_that_has_ended_is_started_again_alone(run):
    urls = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    started = run("--only", "preprocess", PREPROCESS_URL=",".join(urls))
    started.wait_for("^Ready: preprocess$")
    name = f"preprocess:{urls[1].rpartition(':')[2]}"
    started.kill(name)
    again = f"start it again with PREPROCESS_URL set to {urls[1]} and `python run.py --only preprocess`"
    started.wait_for(f"^{name} was ended .*: {again}$")


def test_the_broker_stops_after_the_others(run, wires):
    started = run(**wires, STUBBORN="storage")
    started.wait_for(READY)
    started.interrupt()
    assert eventually(lambda: not is_alive(started.pid("preprocess")))
    assert is_alive(started.pid("storage")) and is_alive(started.pid("broker"))
    assert "Initiating Shutdown" not in started.text
    started.interrupt()
    assert started.end(10) == 0
    assert started.is_gone()
