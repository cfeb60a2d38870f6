"""Clients that store results as fast as they can, and remember what was acknowledged."""

import http.client
import json
import threading
import time

import nats.errors
from brokers import wait_until
from samples import result


def ask(connection, method: str, path: str, body: dict | None = None) -> http.client.HTTPResponse:
    connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    reply.text = reply.read().decode()
    assert reply.status == 200, reply.text
    return reply


class Client:
    """Posts on one kept connection as fast as it can, until the server says that it will stop, or has stopped.

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
                assert json.loads(reply.text)["stored"] == self.size
                self.acknowledged |= {result["id"] for result in self.pending}
                self.pending, told = [], reply.getheader("Connection") == "close"
        except (OSError, http.client.HTTPException):
            pass  # the server has stopped
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
    """What is stored: everything acknowledged, nothing twice, nothing that was not sent, and each as it was sent."""
    connection = http.client.HTTPConnection(address, timeout=20)
    stored, query = [], "?limit=100"
    while query:
        page = json.loads(ask(connection, "GET", f"/results{query}").text)
        stored += page["results"]
        query = page["next"] and f"?limit=100&before={page['next']}"
    summary = json.loads(ask(connection, "GET", "/results/summary").text)
    connection.close()

    ids = {result["id"] for result in stored}
    assert len(ids) == len(stored) == summary["total"] == sum(summary["by_prediction"].values())
    assert set().union(*(client.acknowledged for client in clients)) <= ids
    sent = {id: result for client in clients for id, result in client.sent.items()}
    assert all(result == sent[result["id"]] | {"time": result["time"]} for result in stored)


class Publisher:
    """Sends messages one after another, each until it is acknowledged, as many as wait_for_messages() wants."""

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
        """Return after `more` messages. Others are still being sent then."""
        end = self.messages + more
        self._goal = end + 100
        wait_until(lambda: self.messages >= end or self.error, timeout=30, pause=0.001)


def get(server, path: str) -> str:
    connection = http.client.HTTPConnection(server.address, timeout=20)
    try:
        return ask(connection, "GET", path).text
    finally:
        connection.close()
