"""The service as a whole over HTTP: its manual, metrics, and what it answers when it cannot work."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing

import pytest
from asking import listed, stored
from samples import result
from starlette.testclient import TestClient

import app
import pools
from database import Database
from settings import Settings


def test_without_a_broker_there_are_no_dead_letters(any_client):
    assert any_client.get("/dead-letters").json() == {"dead_letters": [], "next": None}
    for query in ("limit=0", "limit=101", "before=/etc"):
        assert any_client.get(f"/dead-letters?{query}").status_code == 422


@pytest.mark.parametrize(("path", "methods"), [("/results", "GET, POST"), ("/results/summary", "GET")])
def test_another_method_gets_405_and_the_methods_that_exist(any_client, path, methods):
    reply = any_client.put(path)
    assert (reply.status_code, reply.headers["Allow"]) == (405, methods)
    assert reply.json() == {"error": f"Method Not Allowed: PUT {path}"}


def samples(client) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_the_metrics_count_new_results_and_commits(client):
    before = samples(client)
    stored(client, result("a"), result("b"))
    stored(client, result("b"), result("c"), result("c"))
    stored(client, result("c", prediction=None))
    client.get("/readyz")
    after = samples(client)
    more = {name: after[name] - before.get(name, 0) for name in after}
    assert more["stored_results_total"] == 3
    assert (more["commit_results_count"], more["commit_results_sum"]) == (2, 5)
    assert more["commit_seconds_count"] == 2
    assert more["commit_seconds_sum"] > 0


def test_a_full_queue_gets_503_and_a_time_to_try_again(sqlite_url, monkeypatch):
    gate, begun, insert = threading.Event(), threading.Event(), Database.insert

    def slow_insert(self, rows):
        begun.set() if rows else None
        assert gate.wait(10) or not rows
        insert(self, rows)

    gate.set()
    monkeypatch.setattr(Database, "insert", slow_insert)
    settings = Settings(database_url=sqlite_url, max_write_queue=2)
    with TestClient(app.create_app(settings)) as client, ThreadPoolExecutor(4) as pool:
        gate.clear()
        first = pool.submit(stored, client, result("first"))
        assert begun.wait(10)
        others = [pool.submit(stored, client, result(str(number))) for number in range(3)]
        reply = next(as_completed(others, timeout=10)).result()
        assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
        assert reply.json() == {"error": "too many results wait for the disk: try again in a second"}
        gate.set()
        statuses = [asked.result(10).status_code for asked in [first, *others]]
        assert client.get("/results/summary").json()["total"] == statuses.count(200) > 0


def test_without_its_database_the_service_starts_says_so_and_recovers(tmp_path):
    folder = tmp_path / "disk"
    with TestClient(app.create_app(Settings(database_url=f"sqlite:///{folder.as_posix()}/results.db"))) as client:
        assert client.get("/livez").status_code == 200
        replies = [client.get(path) for path in ("/readyz", "/results", "/results/summary", "/dead-letters")]
        claimed = client.post("/claims", json={"key": "0" * 64, "request": "1" * 64})
        for reply in [*replies, stored(client, result("a")), claimed]:
            assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
            assert reply.json() == {
                "error": "the database cannot be used (unable to open database file): try again later"
            }
        folder.mkdir()
        assert client.get("/readyz").json() == {"status": "ready"}
        assert stored(client, result("a")).status_code == 200
        assert listed(client) == ["a"]


def test_a_database_that_another_program_locks_gets_503_and_recovers(sqlite_url, monkeypatch):
    monkeypatch.setattr(pools, "PATIENCE", 0.05)
    with TestClient(app.create_app(Settings(database_url=sqlite_url))) as client:
        assert stored(client, result("a")).status_code == 200
        with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as other:
            other.execute("BEGIN IMMEDIATE")
            for reply in (stored(client, result("b")), client.get("/readyz")):
                assert reply.status_code == 503
                assert reply.json() == {"error": "the database cannot be used (database is locked): try again later"}
            assert listed(client) == ["a"]
        assert client.get("/readyz").status_code == 200
        assert stored(client, result("b")).status_code == 200
        assert listed(client) == ["b", "a"]


def test_a_bug_gets_500_without_a_traceback_and_the_next_request_is_served(sqlite_url, monkeypatch):
    with TestClient(app.create_app(Settings(database_url=sqlite_url)), raise_server_exceptions=False) as client:
        with monkeypatch.context() as patch:
            patch.setattr(Database, "newest", None)
            reply = client.get("/results")
        assert reply.status_code == 500
        assert reply.json() == {"error": "the service has failed on this request; its log says how"}
        assert client.get("/results").status_code == 200


def test_the_manual_describes_the_service(any_client):
    paths = any_client.get("/openapi.json").json()["paths"]
    assert set(paths["/results"]["post"]["responses"]) == {"200", "400", "413", "415", "422", "503"}
    assert set(paths["/results"]["get"]["responses"]) == {"200", "422", "503"}
    assert {parameter["name"] for parameter in paths["/results"]["get"]["parameters"]} == {
        "limit",
        "before",
        "prediction",
    }
    assert set(paths["/results/summary"]["get"]["responses"]) == {"200", "503"}
    assert set(paths["/claims"]["post"]["responses"]) == {"200", "400", "413", "415", "422", "503"}
    assert {parameter["name"] for parameter in paths["/dead-letters"]["get"]["parameters"]} == {"limit", "before"}
    assert any_client.get("/docs").status_code == 200
