"""What messages promise, with real processes: an outage of storage slows nobody, and what waits is stored.

What is lost over REST while processes are killed, and that nothing is over NATS, is shown in notebooks/03_wires.ipynb,
with 21 kills, and in containers by step 04's tests, as is what works while a service is gone. That each wire gives the
same answers is part of test_contract.py. Replicas that take turns, and a start without a broker, are tests of the
gateway and of storage.
"""

from statistics import median

import numpy as np
import pytest
from sklearn.datasets import load_digits

from conftest import database_in, wait_until
from lab.launch import launch_pipeline, stop_all
from lab.outages import Load, audit, metric, wait_until_drained


@pytest.fixture
def services(trained, tmp_path):
    model, broker = str(trained("03_pipeline")), str(tmp_path / "broker")
    services = launch_pipeline(
        wires="grpc,nats", MODEL_DIR=model, BROKER_DIR=broker, DATABASE_URL=database_in(tmp_path)
    )
    yield services
    stop_all(*services.values())


def test_an_outage_of_storage_slows_nobody_and_its_backlog_drains(services, tmp_path):
    gateway, storage = services["gateway"], services["storage"]
    with Load(gateway.url, load_digits().data, rate=100, name="outage") as load:
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
    assert audit(load.answers, tmp_path / "results.db").lost == 0
