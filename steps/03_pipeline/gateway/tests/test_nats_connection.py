"""The broker is absent, killed, restarted, or hangs."""

import logging
import socket
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import pytest
from brokers import Peer, wait_until
from nats.aio.client import Client
from queueing import LATE, QUEUED, ROW, UNREACHABLE, post, storage_health

from conftest import SECONDS


def test_a_gateway_starts_before_the_broker_and_finds_it(open_gateway, absent_broker, caplog):
    caplog.set_level(logging.INFO)
    gateway = open_gateway(storage_url=absent_broker.url)
    assert gateway.get("/livez").status_code == gateway.get("/readyz").status_code == 200
    assert post(gateway) == (False, UNREACHABLE)
    wait_until(lambda: storage_health(gateway) == (False, UNREACHABLE))

    def seconds_to_post() -> float:
        begin = monotonic()
        assert post(gateway) == (False, UNREACHABLE)
        return monotonic() - begin

    wait_until(lambda: seconds_to_post() < 0.2 * SECONDS)  # a broker that has been away for long is not waited for
    absent_broker.start()
    peer = Peer(absent_broker.url)
    try:
        peer.make_stream()
        wait_until(lambda: post(gateway) == (QUEUED, None))
    finally:
        peer.close()
    told = [record.message for record in caplog.records if "the broker at" in record.message]
    assert len(told) == 2, told  # and not for each attempt
    assert told[0].startswith(f"the broker at {absent_broker.url} cannot be reached: ") and "connected" in told[1]


def test_a_broker_that_is_killed_again_and_again_keeps_all_that_it_has_acknowledged(queueing, broker, peer):
    promised, over = [], False

    def send() -> None:
        while not over:
            answer = queueing.post("/inferir", **ROW).json()
            assert answer["stored"] in (QUEUED, False) and answer["prediction"] == [3]
            if answer["stored"]:
                promised.append(answer["id"])

    with ThreadPoolExecutor(8) as clients:
        sending = [clients.submit(send) for _ in range(8)]
        for _ in range(4):
            known = len(promised)
            wait_until(lambda: len(promised) > known + 50)  # noqa: B023
            broker.kill()
            broker.start()
        over = True
        for sent in sending:
            sent.result(10)
    wait_until(lambda: post(queueing) == (QUEUED, None))
    kept = [result["id"] for result in peer.results()]
    assert set(promised) <= set(kept) and len(kept) == len(set(kept))


def test_what_was_under_way_when_the_connection_broke_is_sent_once_more_and_kept_once(open_gateway, peer, way):
    peer.make_stream()
    gateway = open_gateway(storage_url=way.url, deadline_seconds=20)
    assert post(gateway) == (QUEUED, None)
    way.back.clear()
    with ThreadPoolExecutor(1) as client:
        sent = client.submit(post, gateway)
        wait_until(lambda: peer.stream().state.messages == 2)  # but nobody knows
        way.cut()
        way.back.set()
        assert sent.result(10) == (QUEUED, None)
    assert peer.stream().state.messages == 2
    assert 'failed_attempts_total{service="storage"}' in gateway.get("/metrics").text


@pytest.mark.parametrize("error", [RuntimeError("the handler is closed"), ConnectionResetError("Connection lost")])
def test_a_connection_that_breaks_while_it_is_written_to_is_lost(open_gateway, peer, way, monkeypatch, error):
    """nats-py lets the event loop's own errors through when its task that sends has ended before it knew."""
    peer.make_stream()
    gateway = open_gateway(storage_url=way.url, deadline_seconds=20)
    assert post(gateway) == (QUEUED, None)
    broken, flush = set(), Client._flush_pending

    async def write(client: Client, *arguments, **options):
        if not broken or client in broken:
            broken.add(client)
            way.cut()
            raise error
        return await flush(client, *arguments, **options)

    monkeypatch.setattr(Client, "_flush_pending", write)
    assert post(gateway) == (QUEUED, None)


def test_a_broker_that_is_restarted_within_the_deadline_costs_nothing_but_time(open_gateway, broker, peer):
    peer.make_stream()
    gateway = open_gateway(storage_url=broker.url, deadline_seconds=20)
    assert post(gateway) == (QUEUED, None)
    broker.kill()
    with ThreadPoolExecutor(1) as client:
        sent = client.submit(post, gateway)
        broker.start()
        assert sent.result(10) == (QUEUED, None)


def test_a_broker_that_hangs_costs_its_share_of_the_deadline_and_no_prediction(open_gateway, peer, way):
    peer.make_stream()
    gateway = open_gateway(storage_url=way.url)
    assert post(gateway) == (QUEUED, None)
    way.back.clear()
    begin = monotonic()
    assert post(gateway) == (False, LATE)
    assert monotonic() - begin < 0.5 * SECONDS
    # In the end its pings get no answer either, and the connection is given up.
    wait_until(lambda: post(gateway) == (False, UNREACHABLE))
    way.back.set()
    wait_until(lambda: post(gateway) == (QUEUED, None))


def test_any_broker_of_a_cluster_will_do(open_gateway, broker, peer):
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"nats://127.0.0.1:{free.getsockname()[1]}"
    peer.make_stream()
    gateway = open_gateway(storage_url=f"{nobody}, {broker.url}")
    wait_until(lambda: post(gateway) == (QUEUED, None))
    assert gateway.get("/services").json()["storage"]["url"] == f"{nobody}, {broker.url}"
