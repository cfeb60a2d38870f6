"""The service as a process: what it has acknowledged is there, however it ended."""

import http.client
import json
import os
import random
import re
import signal
import threading
import time

import nats.errors
import pytest
from brokers import wait_until
from samples import result

KILLS = 3


def ask(connection, method: str, path: str, body: dict | None = None) -> http.client.HTTPResponse:
    connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    reply.text = reply.read().decode()
    assert reply.status == 200, reply.text
    return reply


class Client:
    """Posts on one kept connection as fast as it can, until the server says that it will leave, or has left.

    What was not acknowledged is posted once more to the next server, as the gateway would.
    """

    def __init__(self, number: int):
        self.number, self.size = number, [1, 1, 3, 16][number % 4]  # results in a post
        self.posts, self.sent, self.acknowledged, self.pending, self.error = 0, {}, set(), [], None

    def post_to(self, address: str) -> None:
        connection, told = http.client.HTTPConnection(address, timeout=20), False
        try:
            while not told:
                if not self.pending:
                    self.posts += 1
                    ids = [f"{self.number}-{self.posts}.{place}" for place in range(self.size)]
                    self.pending = [result(id, seconds=self.posts, prediction=self.posts % 10) for id in ids]
                    self.sent |= {result["id"]: result for result in self.pending}
                reply = ask(connection, "POST", "/results", {"results": self.pending})
                assert json.loads(reply.text) == {"stored": self.size}
                self.acknowledged |= {result["id"] for result in self.pending}
                self.pending, told = [], reply.getheader("Connection") == "close"
        except (OSError, http.client.HTTPException):
            pass  # the server has left
        except Exception as error:
            self.error = error
        finally:
            connection.close()


class Load:
    """Several clients that post to a server; ends when it does."""

    def __init__(self, clients: list[Client], address: str):
        self.clients = clients
        self.threads = [threading.Thread(target=client.post_to, args=[address], daemon=True) for client in clients]
        for thread in self.threads:
            thread.start()

    def wait_for_posts(self, more: int) -> None:
        end, until = sum(client.posts for client in self.clients) + more, time.monotonic() + 30
        while sum(client.posts for client in self.clients) < end:
            assert time.monotonic() < until, [client.error for client in self.clients]
            time.sleep(0.001)

    def join(self) -> None:
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()
        assert [client.error for client in self.clients] == [None] * len(self.clients)


def assert_all_there_once(address: str, clients: list[Client]) -> None:
    """What is stored: everything acknowledged, nothing twice, nothing that nobody sent, and each as it was sent."""
    connection = http.client.HTTPConnection(address, timeout=20)
    stored, query = [], "?limit=100"
    while query:
        page = json.loads(ask(connection, "GET", f"/results{query}").text)
        stored += page["results"]
        query = page["next"] and f"?limit=100&before={page['next']}"
    summary = json.loads(ask(connection, "GET", "/results/summary").text)
    connection.close()

    ids = {result["id"] for result in stored}
    assert len(ids) == len(stored) == summary["total"] == sum(summary["by_digit"].values())
    assert set().union(*(client.acknowledged for client in clients)) <= ids
    sent = {id: result for client in clients for id, result in client.sent.items()}
    assert all(result == sent[result["id"]] | {"time": result["time"]} for result in stored)


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


@pytest.mark.skipif(os.name == "nt", reason="on Windows a process is ended, not asked to leave")
@pytest.mark.parametrize("workers", [1, 2])
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


class Publisher:
    """Sends messages one after another, each until the broker has acknowledged it, as many as are waited for."""

    def __init__(self, peer):
        self.peer, self.sent, self.acknowledged, self.error = peer, {}, set(), None
        self.messages = self._goal = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> "Publisher":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._done.set()
        self._thread.join(20)
        assert not self._thread.is_alive()
        assert self.error is None

    def _work(self) -> None:
        try:
            while not self._done.is_set():
                if self.messages == self._goal:
                    time.sleep(0.001)
                    continue
                ids = [f"{self.messages}.{place}" for place in range([1, 1, 3, 16][self.messages % 4])]
                results = [result(id, seconds=self.messages, prediction=self.messages % 10) for id in ids]
                self.sent |= {result["id"]: result for result in results}
                self._send(json.dumps({"results": results}).encode())
                self.acknowledged |= set(ids)
                self.messages += 1
        except Exception as error:
            self.error = error

    def _send(self, body: bytes) -> None:
        until = time.monotonic() + 20
        while True:
            try:
                return self.peer.send(body, timeout=0.5, Nats_Msg_Id=str(self.messages))
            except nats.errors.Error:  # the broker is gone, or was
                assert time.monotonic() < until

    def wait_for_messages(self, more: int) -> None:
        """Return when so many more are there. Some are still being sent then."""
        end = self.messages + more
        self._goal = end + 100
        wait_until(lambda: self.messages >= end or self.error, timeout=30, pause=0.001)


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


def test_kill_9_of_the_broker_loses_nothing_that_it_has_acknowledged_and_doubles_nothing(start, url, broker, peer):
    server, moments = start(database_url=url, nats_url=broker.url), random.Random(9)
    peer.wait_for_stream()
    with Publisher(peer) as publisher:
        for _ in range(3):
            publisher.wait_for_messages(moments.randint(20, 300))
            time.sleep(moments.uniform(0, 0.01))
            broker.kill()
            broker.start()
    peer.wait_until_empty(60)
    assert_all_there_once(server.address, [publisher])


def test_a_process_that_ends_between_commit_and_acknowledgement_doubles_nothing(start, url, broker, peer):
    program = """
import os, runpy
from nats.aio.msg import Msg

async def end(self):
    os._exit(9)

Msg.ack = end
runpy.run_path("app.py", run_name="__main__")
"""
    first = start(["-c", program], database_url=url, nats_url=broker.url)
    peer.wait_for_stream()
    peer.send_results(*(result(str(number)) for number in range(5)))
    assert first.process.wait(20) == 9
    assert peer.stream().state.messages == 1
    second = start(database_url=url, nats_url=broker.url)
    summary = json.loads(get(second, "/results/summary"))
    assert summary["total"] == 5  # it was committed before
    peer.wait_until_empty(60)
    assert json.loads(get(second, "/results/summary")) == summary
    assert "\nredelivered_messages_total 1.0\n" in get(second, "/metrics")
    assert "\nstored_results_total 0.0\n" in get(second, "/metrics")


def get(server, path: str) -> str:
    connection = http.client.HTTPConnection(server.address, timeout=20)
    try:
        return ask(connection, "GET", path).text
    finally:
        connection.close()


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


@pytest.mark.skipif(os.name == "nt", reason="on Windows a process is ended, not asked to leave")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_process_that_leaves_acknowledges_what_it_has_and_takes_no_more(start, url, broker, peer, workers):
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
