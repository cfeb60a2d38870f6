"""The service as a process: what it has acknowledged is there, however it ended."""

import http.client
import json
import os
import random
import signal
import threading
import time

import pytest
from samples import result

KILLS = 5


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
