"""What the wires of step 03 promise, with real processes: an outage slows nobody, and each wire gives the same answer.

What is lost over REST while processes are killed, and that nothing is over NATS, is shown in notebooks/03_wires.ipynb,
with 21 kills, and in containers by step 04's tests, as is what works while a service is gone. Replicas that take
turns, and a start without a broker, are tests of the gateway and of storage.
"""

import functools
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
from lab.outages import Load, audit, metric, wait_until_drained

ROW = {"json": {"features": row_of(7)}}
ROWS = load_digits().data
STEP = STEPS / "03_pipeline"


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
        storage.restart("/livez")
        wait_until(lambda: metric(storage, "stored_results_total") >= backlog, timeout=30, pause=0.1)
    wait_until_drained(gateway, 30)
    assert sum(answer.stored == "queued" for answer in load.answers) >= 0.99 * len(load.answers)
    before = [answer.seconds for answer in load.answers if 1 < answer.at < away]
    during = [answer.seconds for answer in load.answers if away < answer.at < back]
    assert median(during) <= 2 * median(before)
    assert np.percentile(during, 95) < 0.5  # seconds
    assert 100 <= backlog <= 1_100  # messages; requests that come together share one, on a busy machine many
    assert audit(load.answers, database).lost == 0


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
