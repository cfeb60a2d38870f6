"""The launcher of the notebooks: a service never outlives the kernel that started it."""

import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from lab.launch import Service, free_port, launch

WEB = ("-m", "http.server", "--bind", "127.0.0.1", "{port}")


def start(folder, command=WEB, **options) -> Service:
    return launch(folder, command, **{"wait_for": "/", **options})


def gone(service: psutil.Process, timeout: float = 20) -> bool:
    _, alive = psutil.wait_procs([service], timeout)
    return not alive


def test_a_service_is_up_when_launch_returns_and_gone_when_it_is_stopped(tmp_path):
    service = start(tmp_path)
    process = service.process()
    assert process.is_running()
    service.stop()
    assert gone(process)
    assert '"GET / HTTP/1.1" 200' in service.log()
    service.stop()  # again does no harm


def test_the_end_of_the_block_stops_it_also_after_an_exception(tmp_path):
    with pytest.raises(KeyboardInterrupt), start(tmp_path) as service:
        process = service.process()
        raise KeyboardInterrupt
    assert gone(process)


def test_giving_its_name_to_another_service_stops_it(tmp_path):
    service = start(tmp_path)
    process = service.process()
    service = start(tmp_path)
    assert gone(process)
    service.stop()


def test_a_service_that_has_no_page_is_up_when_it_accepts_connections(tmp_path):
    (tmp_path / "listen.py").write_text(
        "import os, socket\n"
        "server = socket.create_server(('127.0.0.1', int(os.environ['PORT'])))\n"
        "while True: server.accept()\n"
    )
    with launch(tmp_path, ["listen.py"], wait_for="") as service:
        socket.create_connection(("127.0.0.1", service.port), timeout=5).close()
    with pytest.raises(RuntimeError, match="ended by itself"):
        launch(tmp_path, ["-c", "1"], wait_for="")


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_killing_the_kernel_stops_it(tmp_path, how):
    code = f"from lab.launch import launch; service = launch({str(tmp_path)!r}, {WEB}, wait_for='/')"
    code += "; print(service.process().pid); input()"
    kernel = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with kernel:
        service = psutil.Process(int(kernel.stdout.readline()))
        kernel.send_signal(how)
    assert gone(service)


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
def test_an_interrupt_of_the_notebook_spares_a_running_service(tmp_path):
    with start(tmp_path) as service:
        assert os.getpgid(service.process().pid) != os.getpgid(0)  # Ctrl-C and Jupyter's interrupt go to our group


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
def test_a_service_can_be_interrupted_even_if_the_kernel_ignores_interrupts(tmp_path):
    """A shell that starts a kernel in the background makes it ignore SIGINT, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        service = start(tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    with service:
        process = service.process()
        process.send_signal(signal.SIGINT)
        assert gone(process)


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
def test_an_interrupt_while_it_starts_stops_it(tmp_path, monkeypatch):
    started = []

    def interrupt(service, *_):
        started.extend([psutil.Process(service._guard.pid), service])
        raise KeyboardInterrupt

    monkeypatch.setattr(Service, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path)
    assert gone(started[0])


def test_a_service_that_ends_by_itself_shows_its_log(tmp_path):
    (tmp_path / "app.py").write_text("print('no model'); raise SystemExit(3)")
    with pytest.raises(RuntimeError, match="ended by itself; its log ends:\nno model"):
        start(tmp_path, ("app.py",))


def test_a_service_that_has_ended_since_shows_its_log_where_its_process_is_asked_for(tmp_path):
    with start(tmp_path) as service:
        service.kill()
        with pytest.raises(RuntimeError, match=r'(?s)the service has ended; its log ends:\n.*"GET / HTTP/1.1" 200'):
            service.process()


def test_a_service_that_is_never_ready_is_stopped_at_the_deadline_with_its_answer(tmp_path):
    begin = time.monotonic()
    with pytest.raises(RuntimeError, match=r"(?s)no 200 from /readyz in 1 s \(404 .*the log ends:"):
        start(tmp_path, wait_for="/readyz", timeout=1)
    assert time.monotonic() - begin < 15


def test_a_step_that_is_not_there_is_an_error():
    with pytest.raises(FileNotFoundError, match="99_nothing"):
        launch("99_nothing")


def test_a_proxy_is_not_asked_for_a_service_of_this_machine(tmp_path):
    code = f"from lab.launch import launch; launch({str(tmp_path)!r}, {WEB}, wait_for='/', timeout=20).stop()"
    proxy = dict.fromkeys(("HTTP_PROXY", "http_proxy"), f"http://127.0.0.1:{free_port()}")
    env = {**os.environ, **proxy, "NO_PROXY": "example.org", "PYTHONPATH": os.pathsep.join(sys.path)}
    env.pop("no_proxy", None)  # Windows does not distinguish the two
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=60)


def test_a_free_port_can_be_bound_and_is_given_once():
    """If two services had the same port, both would seem ready when one of them is."""
    ports = [free_port() for _ in range(2_000)]
    assert len(set(ports)) == len(ports)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", ports[0]))
