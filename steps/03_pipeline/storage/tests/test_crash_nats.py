"""The service as a process, fed by a broker: what the broker has acknowledged is stored once, however they ended."""

import json
import os
import random
import re
import signal
import time

import pytest
from samples import result

from load import Publisher, assert_all_there_once, get


def test_kill_9_loses_nothing_that_the_broker_has_acknowledged_and_doubles_nothing(start, url, broker, peer):
    start(database_url=url, nats_url=broker.url).kill()  # makes the stream
    moments = random.Random(9)
    with Publisher(peer) as publisher:
        for _ in range(3):
            server = start(database_url=url, nats_url=broker.url)
            publisher.wait_for_messages(moments.randint(20, 300))
            time.sleep(moments.uniform(0, 0.01))
            server.kill()
    server = start(database_url=url, nats_url=broker.url)
    peer.wait_until_empty(60)
    assert_all_there_once(server.address, [publisher])


def test_kill_9_of_the_broker_loses_nothing_that_it_has_acknowledged_and_doubles_nothing(
    start, sqlite_url, broker, peer
):
    server, moments = start(database_url=sqlite_url, nats_url=broker.url), random.Random(9)
    peer.wait_for_stream()
    with Publisher(peer) as publisher:
        for _ in range(3):
            publisher.wait_for_messages(moments.randint(20, 300))
            time.sleep(moments.uniform(0, 0.01))
            broker.kill()
            broker.start()
    peer.wait_until_empty(60)
    assert_all_there_once(server.address, [publisher])


def test_a_process_that_ends_between_commit_and_acknowledgement_doubles_nothing(start, sqlite_url, broker, peer):
    program = """
import os, runpy
from nats.aio.msg import Msg

async def end(self):
    os._exit(9)

Msg.ack = end
runpy.run_path("app.py", run_name="__main__")
"""
    first = start(["-c", program], database_url=sqlite_url, nats_url=broker.url)
    peer.wait_for_stream()
    peer.send_results(*(result(str(number)) for number in range(5)))
    assert first.process.wait(20) == 9
    assert peer.stream().state.messages == 1
    second = start(database_url=sqlite_url, nats_url=broker.url)
    summary = json.loads(get(second, "/results/summary"))
    assert summary["total"] == 5  # it was committed before
    peer.wait_until_empty(60)
    assert json.loads(get(second, "/results/summary")) == summary
    assert "\nredelivered_messages_total 1.0\n" in get(second, "/metrics")
    assert "\nstored_results_total 0.0\n" in get(second, "/metrics")


def test_processes_share_what_is_in_the_broker(start, url, broker, peer):
    if url.startswith("sqlite"):
        pytest.skip("several processes are for PostgreSQL, as README.md says")
    servers = [start(database_url=url, nats_url=broker.url) for _ in range(2)]
    peer.wait_for_stream()
    peer.send(*(json.dumps({"results": [result(str(number))]}).encode() for number in range(1500)))
    peer.wait_until_empty(60)
    assert json.loads(get(servers[0], "/dead-letters"))["dead_letters"] == []
    stored = [re.search(r"^stored_results_total (.*)$", get(server, "/metrics"), re.M) for server in servers]
    shares = [float(found[1]) for found in stored]
    assert sum(shares) == json.loads(get(servers[0], "/results/summary"))["total"] == 1500
    assert min(shares) > 0


@pytest.mark.skipif(os.name == "nt", reason="on Windows a process is ended, not asked to stop")
@pytest.mark.parametrize(("url", "workers"), [("sqlite", 1), ("postgresql", 2)], indirect=["url"])
def test_a_process_that_stops_acknowledges_what_it_has_and_takes_no_more(start, url, broker, peer, workers):
    settings = {"database_url": url, "nats_url": broker.url, "drain_seconds": 0}
    server = start(workers=workers, **settings)
    peer.wait_for_stream()
    with Publisher(peer) as publisher:
        publisher.wait_for_messages(200)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(20)
        publisher.wait_for_messages(50)
    assert peer.consumer().num_ack_pending == 0
    assert peer.stream().state.messages >= 50
    server = start(**settings)
    peer.wait_until_empty(60)
    assert "\nredelivered_messages_total 0.0\n" in get(server, "/metrics")
    assert_all_there_once(server.address, [publisher])
