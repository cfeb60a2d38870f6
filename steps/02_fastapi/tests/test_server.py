"""The service as a process: how it leaves, how workers share, what it logs."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import app
from conftest import Server
from settings import Settings

BODY = (Path(app.__file__).parent / "sample_request.json").read_bytes()
pytestmark = pytest.mark.skipif(os.name == "nt", reason="on Windows a process is ended, not asked to leave")


def ask(connection: http.client.HTTPConnection, path: str = "/inferir") -> http.client.HTTPResponse:
    method, body = ("POST", BODY) if path == "/inferir" else ("GET", None)
    connection.request(method, path, body, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    reply.text = reply.read().decode()
    return reply


class Client(threading.Thread):
    """Asks on one kept connection as fast as it can, until the server says that it will close it."""

    def __init__(self, address: str):
        super().__init__(daemon=True)
        self.address, self.sent, self.answered, self.told, self.error = address, 0, 0, False, None
        self.start()

    def run(self) -> None:
        connection = http.client.HTTPConnection(self.address, timeout=20)
        try:
            while not self.told:
                self.sent += 1
                reply = ask(connection)
                assert (reply.status, json.loads(reply.text)["prediction"]) == (200, [3])
                self.answered += 1
                self.told = reply.getheader("Connection") == "close"
        except Exception as error:
            self.error = error


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_under_load_loses_no_request(start, model_dir, workers):
    server = start(model_dir=model_dir, workers=workers, drain_seconds=10)
    clients = [Client(server.address) for _ in range(16)]
    until = time.monotonic() + 30
    while sum(client.answered for client in clients) < 1_000:
        assert time.monotonic() < until, [client.error for client in clients]
        time.sleep(0.01)

    server.process.send_signal(signal.SIGTERM)
    for client in clients:
        client.join(20)
    server.process.wait(20)

    assert [client.error for client in clients] == [None] * 16
    assert [client.answered for client in clients] == [client.sent for client in clients]
    assert all(client.told for client in clients)
    with pytest.raises(ConnectionRefusedError):
        ask(http.client.HTTPConnection(server.address, timeout=5))


def test_a_leaving_server_answers_but_is_not_ready(start, model_dir):
    server = start(model_dir=model_dir, drain_seconds=20)
    kept = [http.client.HTTPConnection(server.address, timeout=20) for _ in range(5)]
    assert [ask(connection).status for connection in kept] == [200] * 5
    server.process.send_signal(signal.SIGTERM)
    until = time.monotonic() + 20
    while (ready := ask(kept[0], "/readyz")).status == 200:  # the signal is on its way
        assert time.monotonic() < until
    assert (ready.status, json.loads(ready.text)) == (503, {"error": "the service is shutting down"})
    paths = ["/inferir", "/livez", "/nowhere", "/v2/health/ready"]
    replies = [ask(connection, path) for connection, path in zip(kept[1:], paths, strict=True)]
    assert [reply.status for reply in replies] == [200, 200, 404, 503]
    assert all(reply.getheader("Connection") == "close" for reply in [ready, *replies])
    server.process.wait(10)  # at once when all clients have gone, long before the drain would end


def test_a_client_that_stays_holds_nobody_up_for_longer_than_the_drain(start, model_dir):
    server = start(model_dir=model_dir, drain_seconds=0.2)
    kept = http.client.HTTPConnection(server.address, timeout=20)
    assert ask(kept).status == 200
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(10)


def test_workers_answer_metrics_for_all_of_them_and_leave_nobody_behind(start, model_dir):
    server = start(model_dir=model_dir, workers=2)
    for _ in range(60):  # each on a new connection, which any of the two may take
        connection = http.client.HTTPConnection(server.address, timeout=20)
        assert ask(connection).status == 200
        connection.close()
    count = re.compile(r'^http_request_duration_seconds_count\{.*route="/inferir".*\} (\S+)$', re.MULTILINE)
    counted, until = 0, time.monotonic() + 20
    while counted < 60:  # a request is counted when its reply has gone
        assert time.monotonic() < until, counted
        metrics = ask(http.client.HTTPConnection(server.address, timeout=20), "/metrics").text
        counted = float(count.search(metrics)[1])
    assert counted == 60
    pids = {int(pid) for pid in re.findall(r"Started server process \[(\d+)\]", " ".join(server.said("Started")))}
    assert len(pids) == 2
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(20)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_every_line_of_the_log_is_a_json_object_and_the_last_requests_are_in_it(start, model_dir):
    server = start(model_dir=model_dir)
    connection = http.client.HTTPConnection(server.address, timeout=20)
    for _ in range(21):
        ask(connection)
    connection.close()
    server.process.send_signal(signal.SIGINT)
    server.process.wait(20)
    server._reader.join(10)
    assert server.other == []
    requests = [line for line in server.log if line["message"] == "request"]
    assert len(requests) == 21
    assert {line["path"] for line in requests} == {"/inferir"}
    assert all(line["time"].endswith("+00:00") and len(line["request_id"]) == 32 for line in requests)


HEAD = b"POST /inferir HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def address(model_dir):
    server = Server({"model_dir": model_dir})
    yield server.address
    server.end()


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "TLS/1.0"])
@pytest.mark.parametrize(
    ("sent", "answers"),
    [([WHOLE], 1), ([CHUNKED], 1), ([CHUNKED[:20], CHUNKED[20:200], CHUNKED[200:]], 1), ([WHOLE + GET + CHUNKED], 3)],
    ids=["whole", "chunked", "in pieces", "pipelined"],
)
def test_a_request_that_offers_another_protocol_is_answered(address, protocol, sent, answers):
    host, port = address.split(":")
    offer = b"Host: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: %s\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        for place, piece in enumerate(sent):
            if place:  # the piece before this one has been read, most likely; either way it has to work
                time.sleep(0.02)
            connection.sendall(piece.replace(b"Host: x\r\n", offer % protocol.encode()))
        received = b""
        while received.count(b"HTTP/1.1 ") < answers or not received.endswith(b"}"):
            received += (more := connection.recv(65_536))
            assert more, received
    assert received.count(b"HTTP/1.1 200 OK") == answers, received
    assert received.count(b'"prediction":[3]') == answers - (answers > 1)


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (GET[:-2] + b"X: ", b"x" * 10_000),
        (CHUNKED[:-2], b"a: b\r\n" * 1_000),
        (CHUNKED[:-2] + b"a: ", b"x" * 10_000),
        (b"", GET * 500),
    ],
    ids=["head", "trailers", "trailer", "pipelined"],
)
def test_what_has_no_end_is_refused_and_not_kept(address, begin, more):
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(begin)
        sent = 0
        with contextlib.suppress(ConnectionError):  # it has been closed
            while sent < 100_000_000:
                connection.sendall(more)
                sent += len(more)
        assert sent < 10_000_000


@pytest.mark.parametrize("sent", [b"", GET[:10], WHOLE[:-1], CHUNKED[:-5]], ids=["nothing", "head", "body", "chunk"])
def test_a_request_that_stays_incomplete_is_not_waited_for(start, model_dir, sent):
    server = start(model_dir=model_dir, keep_alive_seconds=1)
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(sent)
        with contextlib.suppress(ConnectionError):
            assert connection.recv(1) == b""  # TimeoutError, if it is not closed


def test_a_long_head_with_a_large_body_is_answered(address):
    connection = http.client.HTTPConnection(address, timeout=20)
    for _ in range(2):
        connection.request(
            "POST", "/inferir", b" " * 500_000 + BODY, {"Content-Type": "application/json", "X": 50_000 * "x"}
        )
        assert json.loads(connection.getresponse().read())["prediction"] == [3]


def test_head_is_get_without_a_body(address):
    connection = http.client.HTTPConnection(address, timeout=20)
    for path in ("/livez", "/readyz", "/metrics", "/docs", "/v2", "/nowhere"):
        replies = []
        for method in ("GET", "HEAD", "GET"):  # the last shows that the connection is still in order
            connection.request(method, path)
            replies.append(connection.getresponse())
            replies[-1].text = replies[-1].read()
        get, head, _ = replies
        assert (head.status, head.text) == (get.status, b"")
        assert head.getheader("Content-Type") == get.getheader("Content-Type")


def test_an_idle_connection_is_kept_as_long_as_the_setting_says(start, model_dir):
    server = start(model_dir=model_dir, keep_alive_seconds=0.2)
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(GET)
        while connection.recv(65_536):  # until the server closes it
            pass
    assert Settings().keep_alive_seconds == 75


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_that_is_taken_ends_the_program_and_says_so(model_dir, workers):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        env = {"MODEL_DIR": str(model_dir), "WORKERS": workers, "PORT": str(taken.getsockname()[1])}
        command, folder = [sys.executable, "app.py"], Path(app.__file__).parent
        done = subprocess.run(command, cwd=folder, env={**os.environ, **env}, capture_output=True, timeout=60)
    assert done.returncode > 0
    assert b"address already in use" in (done.stdout + done.stderr).lower()
