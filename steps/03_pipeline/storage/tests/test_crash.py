"""The service as a process: what it has acknowledged is there, however it ended."""

import os
import random
import signal
import time

import pytest

from load import Client, Load, assert_all_there_once

KILLS = 3


def test_kill_9_at_any_moment_loses_nothing_acknowledged_and_doubles_nothing(start, url):
    moments, clients = random.Random(9), [Client(number) for number in range(4)]
    for _ in range(KILLS):
        server = start(database_url=url)
        load = Load(clients, server.address)
        load.wait_for_posts(moments.randint(20, 300))
        time.sleep(moments.uniform(0, 0.01))  # any moment of a commit, not only the one after a reply
        server.kill()
        load.join()
    assert_all_there_once(start(database_url=url).address, clients)


@pytest.mark.skipif(os.name == "nt", reason="on Windows a process is ended, not asked to stop")
@pytest.mark.parametrize(("url", "workers"), [("sqlite", 1), ("postgresql", 2)], indirect=["url"])
def test_sigterm_under_load_loses_no_request(start, url, workers):
    clients = [Client(number) for number in range(8)]
    server = start(database_url=url, workers=workers, drain_seconds=10)
    load = Load(clients, server.address)
    load.wait_for_posts(400)
    server.process.send_signal(signal.SIGTERM)
    load.join()
    server.process.wait(20)
    assert [client.pending for client in clients] == [[]] * 8
    assert_all_there_once(start(database_url=url).address, clients)
