"""The pipeline of step 03 over gRPC and NATS, as real processes: killed, suspended, and nothing lost.

Replicas that take turns, and a start without a broker, are tests of the gateway and of storage.
"""

import functools
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import pytest
import requests
from sklearn.datasets import load_digits

from conftest import database_in, wait_until
from contract import row_of
from lab.launch import STEPS, Service, launch_pipeline, stop_all
from lab.outages import Load, audit, kill, metric, wait_until_drained

ROW = {"json": {"features": row_of(7)}}
ROWS = load_digits().data
STEP = STEPS / "03_pipeline"
DEADLINE = 2
KILLS = {"storage": 3, "broker": 3, "gateway": 1}


class Pipeline(NamedTuple):
    services: dict[str, Service]
    database: Path


@contextmanager
def running(wires: str, model: Path, folder: Path) -> Iterator[Pipeline]:
    env = {"MODEL_DIR": str(model), "BROKER_DIR": str(folder / "broker"), "DATABASE_URL": database_in(folder)}
    services = launch_pipeline(wires=wires, **env)
    yield Pipeline(services, folder / "results.db")
    stop_all(*services.values())


@pytest.fixture(scope="module")
def wired(trained, tmp_path_factory):
    """The pipeline over gRPC and NATS, started once: at the end of each test, all of it runs."""
    with running("grpc,nats", trained("03_pipeline"), tmp_path_factory.mktemp("wired")) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def over_rest(trained, tmp_path_factory):
    """The pipeline over REST, in the same way."""
    with running("", trained("03_pipeline"), tmp_path_factory.mktemp("rest")) as pipeline:
        yield pipeline


def post(services: dict, **sent) -> requests.Response:
    return requests.post(services["gateway"].url + "/inferir", timeout=10, **(sent or ROW))


def get(services: dict, path: str) -> dict:
    return requests.get(services["gateway"].url + path, timeout=10).json()


def test_nothing_acknowledged_is_lost_or_doubled_while_storage_broker_and_gateway_are_killed(wired):
    """The same at full length, 22 kills under thousands of predictions, is in notebooks/03_wires.ipynb."""
    (services, database), kills = wired, []
    with Load(services["gateway"].url, ROWS, rate=350, name="proof") as load:
        kill(services, KILLS, seconds=14, seed=7, done=kills)
        wait_until(lambda: len(load.answers) >= 5_000, timeout=60)
    wait_until_drained(services["gateway"], 60)
    found = audit(load.answers, database)
    print(found, Counter(name for name, _ in kills))
    assert Counter(name for name, _ in kills) == KILLS
    assert found.answered >= 5_000
    assert (found.lost, found.doubled) == (0, 0)
    assert found.acknowledged > 0.9 * found.answered  # the broker is not away for long
    assert any(answer.attempts > 1 for answer in load.answers)  # the kills were felt
    assert requests.get(services["storage"].url + "/dead-letters", timeout=10).json()["dead_letters"] == []


def test_over_rest_what_storage_misses_is_gone_and_the_client_is_told(over_rest):
    services, database = over_rest
    with Load(services["gateway"].url, ROWS, rate=200, name="rest") as load:
        kill(services, {"storage": 3, "gateway": 1}, seconds=8, seed=7, done=[])
    found = audit(load.answers, database)
    assert (found.lost, found.doubled) == (0, 0)
    assert found.not_kept > 0
    assert {answer.why for answer in load.answers if not answer.stored} <= {
        "storage cannot be reached",
        "storage has not answered in time",
    }


def test_an_outage_of_storage_slows_nobody_and_its_backlog_drains(wired):
    services, database = wired
    gateway, storage = services["gateway"], services["storage"]
    with Load(gateway.url, ROWS, rate=100, name="outage") as load:
        wait_until(lambda: load.elapsed() > 4, timeout=20, pause=0.2)
        storage.kill()
        away = load.elapsed()
        # twice as long as the broker waits for an acknowledgement, the longest that anything waits here
        wait_until(lambda: load.elapsed() > away + 10, timeout=20, pause=0.2)
        backlog = metric(gateway, "queue_messages")
        back = load.elapsed()
        began = time.monotonic()
        storage.restart("/livez")
        wait_until(lambda: metric(storage, "stored_results_total") >= backlog, timeout=30, pause=0.1)
        drained = backlog / (time.monotonic() - began)  # results in a second, the start of storage included
    wait_until_drained(gateway, 30)
    assert sum(answer.stored == "queued" for answer in load.answers) >= 0.99 * len(load.answers)
    before = [answer.seconds for answer in load.answers if 1 < answer.at < away]
    during = [answer.seconds for answer in load.answers if away < answer.at < back]
    assert median(during) <= 2 * median(before)
    assert np.percentile(during, 95) <= 2 * np.percentile(before, 95)
    assert 500 <= backlog <= 1_100  # messages; requests that come together share one
    assert drained > 100  # as many come in
    assert audit(load.answers, database).lost == 0


EXPECTED = {  # of a row: the status, `stored`, and whether the history answers
    "preprocess": (200, "queued", True),
    "inference": (503, None, True),
    "storage": (200, "queued", False),
    "broker": (200, False, True),
}


@pytest.mark.parametrize("how", ["killed", "suspended"])
def test_what_works_while_a_service_is_gone(wired, how):
    services = wired.services
    assert post(services).json()["stored"] == "queued"
    for name, (status, stored, history) in EXPECTED.items():
        services[name].kill() if how == "killed" else services[name].process().suspend()
        begin = time.monotonic()
        reply = post(services)
        listing = requests.get(services["gateway"].url + "/results", timeout=10)
        assert time.monotonic() - begin < 2 * DEADLINE + 0.5, name
        assert reply.status_code == status, (name, reply.text)
        assert reply.json().get("stored") == stored, (name, reply.text)
        if status == 503:
            assert reply.headers["Retry-After"] and reply.json()["error"].startswith(name)
        assert (listing.status_code == 200) is history, (name, listing.text)
        gone = "storage" if name == "broker" else name  # without its broker, storage is not ready
        # A suspended broker keeps its connections: storage sees it when two pings have had no answer.
        wait_until(lambda gone=gone: unready(services) == [gone])
        services[name].restart("/livez") if how == "killed" else services[name].process().resume()
        wait_until(lambda: unready(services) == [])
        wait_until(lambda: post(services).json().get("stored") == "queued")


def unready(services: dict[str, Service]) -> list[str]:
    return [name for name, health in get(services, "/services").items() if not health["ready"]]


def test_the_same_picture_gets_the_same_answer_over_every_wire(over_rest, wired):
    drawing = (STEP / "sample_drawing.png").read_bytes()
    answers = []
    for services in (over_rest.services, wired.services):
        picture = post(services, data=drawing, headers={"Content-Type": "image/png", "X-Request-ID": "same"}).json()
        newest = functools.partial(get, services, "/results?limit=1")
        wait_until(lambda: newest()["results"][0]["request_id"] == "same")  # noqa: B023
        (stored,) = newest()["results"]
        assert picture["id"] == stored["id"]
        assert picture["probabilities"] == [stored["probabilities"]]
        same = [picture[key] for key in ("prediction", "model", "features", "preprocess")]
        answers.append([*same, np.float32(picture["probabilities"]).tolist()])
    assert answers[0] == answers[1]
