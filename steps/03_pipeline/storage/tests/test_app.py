import json
import runpy
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing

import pytest
from samples import result
from starlette.testclient import TestClient

import app
import database
from chassis import server
from database import Database
from settings import Settings, read_settings

JSON = {"Content-Type": "application/json"}
DAMAGED = object()


def stored(client, *results):
    return client.post("/results", json={"results": results})


def listed(client, query: str = "") -> list[str]:
    return [result["id"] for result in client.get(f"/results{query}").json()["results"]]


def with_value(place: str, value) -> dict:
    """A result with another value at a place such as "model.version", or with none there if it is DAMAGED."""
    damaged = inside = result()
    *path, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    for part in path:
        inside = inside[part]
    if value is DAMAGED:
        del inside[last]
    else:
        inside[last] = value
    return damaged


def test_a_stored_result_is_listed_as_it_was_sent(client):
    sent = result("7f3a.0", preprocess=None, time="2026-05-04T14:30:00.250000+02:00")
    reply = stored(client, sent)
    assert (reply.status_code, reply.json()) == (200, {"stored": 1})
    reply = client.get("/results")
    assert reply.status_code == 200
    assert reply.json() == {"results": [sent | {"time": "2026-05-04T12:30:00.250000Z"}], "next": None}


def test_a_result_that_is_stored_already_counts_as_stored_and_stays_as_it_is(client):
    first, other = result("a", prediction=1), result("a", prediction=2)
    assert stored(client, first, other).json() == {"stored": 2}
    assert stored(client, other, result("b")).json() == {"stored": 2}
    assert {found["id"]: found["prediction"] for found in client.get("/results").json()["results"]} == {"a": 1, "b": 3}


def test_pages_go_from_the_newest_to_the_oldest(client):
    stored(client, *(result(f"{number:02}", seconds=number // 4) for number in range(45)))
    ids, query = [], "?limit=7"
    while query:
        page = client.get("/results" + query).json()
        ids += [result["id"] for result in page["results"]]
        query = page["next"] and f"?limit=7&before={page['next']}"
    assert ids == [f"{number:02}" for number in reversed(range(45))]
    assert listed(client) == ids[:20]
    assert listed(client, "?limit=100") == ids


def test_the_list_of_a_digit_has_only_that_digit(client):
    stored(client, *(result(str(number), seconds=number, prediction=number % 3) for number in range(9)))
    assert listed(client, "?digit=2") == ["8", "5", "2"]
    assert listed(client, "?digit=2&limit=1&before=8") == ["5"]
    assert listed(client, "?digit=7") == []


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("limit=0", "query.limit: input should be greater than or equal to 1"),
        ("limit=101", "query.limit: input should be less than or equal to 100"),
        ("limit=many", "query.limit: input should be a valid integer"),
        ("digit=10", "query.digit: input should be less than 10"),
        ("digit=-1", "query.digit: input should be greater than or equal to 0"),
        ("before=nowhere", "before: there is no result with the id nowhere"),
        ("before=/etc", "query.before: string should match pattern"),
    ],
)
def test_a_list_that_makes_no_sense_gets_422(any_client, query, sentence):
    reply = any_client.get(f"/results?{query}")
    assert reply.status_code == 422
    assert reply.json()["error"].startswith(sentence)


def test_the_summary_counts_by_digit_and_by_model_version(client):
    assert client.get("/results/summary").json()["total"] == 0
    new = {"version": "new", "format": "onnx"}
    stored(client, result("a"), result("b", model=new), result("c", model=new, prediction=0), result("c"))
    summary = client.get("/results/summary").json()
    assert summary == {
        "total": 3,
        "by_digit": {str(digit): {0: 1, 3: 2}.get(digit, 0) for digit in range(10)},
        "by_model_version": {"b5e7a46e61b8": 1, "new": 2},
    }


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        ("id", DAMAGED, "results[1].id is missing"),
        ("id", "a b", "results[1].id must match pattern"),
        ("id", "", "results[1].id must match pattern"),
        ("id", "a" * 65, "results[1].id must match pattern"),
        ("id", "a\n", "results[1].id must match pattern"),
        ("id", 7, "results[1].id must be a valid string"),
        ("request_id", "a" * 129, "results[1].request_id must have at most 128 characters"),
        ("request_id", "a\0", "results[1].request_id must match pattern"),
        ("time", "2026-05-04T12:00:00", "results[1].time must have timezone info"),
        ("time", "noon", "results[1].time must be ISO 8601 with a zone"),
        ("time", "2026-13-04T12:00:00Z", "results[1].time must be a valid datetime"),
        ("time", 1_777_777_777, "results[1].time must be ISO 8601 with a zone"),
        ("time", "1777777777", "results[1].time must be ISO 8601 with a zone"),
        ("time", "0001-01-01T00:00:00+14:00", "results[1].time must be in the years 1 to 9999 of UTC"),
        ("features", [0] * 63, "results[1].features must have 64 numbers"),
        ("features", [0] * 65, "results[1].features must have 64 numbers"),
        ("features", "ink", "results[1].features must be a valid array"),
        ("features.63", 17, "results[1].features[63] must be less than or equal to 16"),
        ("features.0", float("nan"), "results[1].features[0] must be"),
        ("features.0", True, "results[1].features[0] must be a valid number"),
        ("features.0", "1", "results[1].features[0] must be a valid number"),
        ("features.0", None, "results[1].features[0] must be a valid number"),
        ("prediction", 10, "results[1].prediction must be less than 10"),
        ("prediction", 3.5, "results[1].prediction must be a valid integer"),
        ("prediction", "3", "results[1].prediction must be a valid integer"),
        ("prediction", True, "results[1].prediction must be a valid integer"),
        ("probabilities", [0.1] * 9, "results[1].probabilities must have 10 numbers"),
        ("probabilities.3", float("inf"), "results[1].probabilities[3] must be a finite number"),
        ("model", None, "results[1].model must be an object"),
        ("model.version", "", "results[1].model.version must have at least 1 character"),
        ("preprocess", DAMAGED, "results[1].preprocess is missing"),
        ("timings_ms", {"a b": 1}, "results[1].timings_ms.a b must match pattern"),
        ("timings_ms", {"x": float("nan")}, "results[1].timings_ms.x must be a finite number"),
        ("timings_ms", {str(hop): 1 for hop in range(17)}, "results[1].timings_ms must be at most 16"),
    ],
    ids=str,
)
def test_a_result_that_is_none_gets_422_and_its_neighbour_is_not_stored(any_client, place, value, sentence):
    body = json.dumps({"results": [result("neighbour"), with_value(place, value)]})
    reply = any_client.post("/results", content=body, headers=JSON)
    assert reply.status_code == 422
    assert list(reply.json()) == ["error"]
    assert reply.json()["error"].startswith(sentence)
    assert listed(any_client) == []


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ("{", 400, "the body is not JSON"),
        ("", 400, "the body is not JSON"),
        (r'{"results": [{"id": "\ud800"}]}', 400, "the body is not JSON"),
        ("[]", 422, 'the body must be a JSON object with a key "results"'),
        ("{}", 422, "results is missing"),
        ('{"results": []}', 422, "results must have at least 1 item"),
        ('{"results": {}}', 422, "results must be a valid array"),
        ('{"results": [7]}', 422, "results[0] must be an object"),
        ('{"results": [' + "9" * 5_000 + "]}", 422, "a number in the body has too many digits"),
    ],
    ids=str,
)
def test_a_body_that_is_no_list_of_results_is_refused(any_client, body, status, sentence):
    reply = any_client.post("/results", content=body, headers=JSON)
    assert reply.status_code == status
    assert reply.json()["error"].startswith(sentence)


def test_a_whole_number_may_be_written_with_a_point(client):
    assert stored(client, result(prediction=3.0)).status_code == 200
    assert listed(client, "?digit=3") == ["one"]


KEY, REQUEST, OTHER = "0" * 64, "1" * 64, "2" * 64


def test_a_key_is_claimed_by_the_first_request_that_has_it(client):
    for _ in range(2):
        reply = client.post("/claims", json={"key": KEY, "request": REQUEST})
        assert (reply.status_code, reply.json()) == (200, {"claimed": True})
    reply = client.post("/claims", json={"key": KEY, "request": OTHER})
    assert (reply.status_code, reply.json()) == (422, {"error": "this Idempotency-Key was used for another request"})
    assert client.post("/claims", json={"key": OTHER, "request": REQUEST}).status_code == 200


def test_of_requests_that_claim_a_key_at_once_one_gets_it(client):
    def claim(number: int) -> int:
        return client.post("/claims", json={"key": f"{number // 4:064x}", "request": f"{number % 4:064x}"}).status_code

    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(claim, range(64)))
    assert [sorted(statuses[first : first + 4]) for first in range(0, 64, 4)] == [[200, 422, 422, 422]] * 16


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ("", 400, "the body is not JSON"),
        ("[]", 422, 'the body must be a JSON object with a key "key"'),
        (json.dumps({"key": KEY}), 422, "request is missing"),
        (json.dumps({"key": "no digest", "request": REQUEST}), 422, "key must match pattern"),
        (json.dumps({"key": KEY, "request": REQUEST + "\n"}), 422, "request must match pattern"),
        (json.dumps({"key": KEY, "request": 1}), 422, "request must be a valid string"),
    ],
    ids=str,
)
def test_a_claim_that_makes_no_sense_is_refused(any_client, body, status, sentence):
    reply = any_client.post("/claims", content=body, headers=JSON)
    assert reply.status_code == status
    assert reply.json()["error"].startswith(sentence)


def test_without_a_broker_there_are_no_dead_letters(any_client):
    assert any_client.get("/dead-letters").json() == {"dead_letters": [], "next": None}
    for query in ("limit=0", "limit=101", "before=/etc"):
        assert any_client.get(f"/dead-letters?{query}").status_code == 422


@pytest.mark.parametrize(("path", "methods"), [("/results", "GET, POST"), ("/results/summary", "GET")])
def test_another_method_gets_405_and_is_told_those_that_there_are(any_client, path, methods):
    reply = any_client.put(path)
    assert (reply.status_code, reply.headers["Allow"]) == (405, methods)
    assert reply.json() == {"error": f"Method Not Allowed: PUT {path}"}


def test_another_content_type_gets_415(any_client):
    assert any_client.post("/results", content="{}", headers={"Content-Type": "text/plain"}).status_code == 415


@pytest.mark.parametrize("count", [1024, 1025])
def test_the_limit_of_results_is_exact(client, count):
    reply = stored(client, *(result(str(number)) for number in range(count)))
    assert reply.status_code == (200 if count == 1024 else 413)
    if count > 1024:
        assert reply.json() == {"error": "a request has at most 1,024 results: send several requests"}
    assert client.get("/results/summary").json()["total"] == (1024 if count == 1024 else 0)


def test_the_limit_of_bytes_is_exact(sqlite_url):
    body = json.dumps({"results": [result()]}).ljust(5_000)
    with TestClient(app.create_app(Settings(database_url=sqlite_url, max_write_bytes=5_000))) as client:
        assert client.post("/results", content=body, headers=JSON).status_code == 200
        reply = client.post("/results", content=body + " ", headers=JSON)
    assert (reply.status_code, reply.json()) == (413, {"error": "the body is larger than 5,000 bytes"})


@pytest.mark.parametrize("item", ["[]", "{}", '"x"', "null", "17"])
@pytest.mark.parametrize("place", ["results", "features", "timings_ms"])
def test_a_large_body_full_of_mistakes_is_refused_at_once(any_client, place, item):
    items = [item] * (1_000_000 // len(item + ","))
    if place == "timings_ms":
        wrong = "{" + ",".join(f'"{number}":{item}' for number, item in enumerate(items[:100_000])) + "}"
    else:
        wrong = "[" + ",".join(items) + "]"
    if place != "results":
        wrong = "[" + json.dumps(result(**{place: "WRONG"})).replace('"WRONG"', wrong) + "]"
    begin = time.process_time()
    reply = any_client.post("/results", content=f'{{"results": {wrong}}}', headers=JSON)
    assert reply.status_code in (413, 422)
    assert len(reply.json()["error"]) < 200
    assert time.process_time() - begin < 1


def samples(client) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_the_metrics_count_new_results_and_commits(client):
    before = samples(client)
    stored(client, result("a"), result("b"))
    stored(client, result("b"), result("c"), result("c"))
    stored(client, result("c", prediction=99))
    client.get("/readyz")
    after = samples(client)
    more = {name: after[name] - before.get(name, 0) for name in after}
    assert more["stored_results_total"] == 3
    assert (more["commit_results_count"], more["commit_results_sum"]) == (2, 5)
    assert more["commit_seconds_count"] == 2
    assert more["commit_seconds_sum"] > 0


def test_a_full_queue_gets_503_and_is_told_when_to_come_again(sqlite_url, monkeypatch):
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
        claimed = client.post("/claims", json={"key": KEY, "request": REQUEST})
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
    monkeypatch.setattr(database, "PATIENCE", 0.05)
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


def test_a_bug_gets_500_without_a_traceback_and_the_next_request_is_served(sqlite_url, monkeypatch, caplog):
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
    assert {parameter["name"] for parameter in paths["/results"]["get"]["parameters"]} == {"limit", "before", "digit"}
    assert set(paths["/results/summary"]["get"]["responses"]) == {"200", "503"}
    assert set(paths["/claims"]["post"]["responses"]) == {"200", "400", "413", "415", "422", "503"}
    assert {parameter["name"] for parameter in paths["/dead-letters"]["get"]["parameters"]} == {"limit", "before"}
    assert any_client.get("/docs").status_code == 200


@pytest.mark.parametrize(
    "url",
    ["results.db", "sqlite://", "sqlite:///:memory:", "mysql://u:hunter2@h/d", "postgresql+psycopg://u:hunter2@h:x/d"],
)
def test_a_database_url_of_another_kind_ends_the_program_without_telling_a_password(monkeypatch, url):
    monkeypatch.setenv("DATABASE_URL", url)
    with pytest.raises(SystemExit, match="^DATABASE_URL: sqlite:///file or postgresql") as ended:
        read_settings()
    assert "hunter2" not in str(ended.value)


def test_a_password_in_a_file_is_used_and_never_told(monkeypatch, tmp_path):
    file = tmp_path / "password"
    file.write_text("hunter/2@\n")
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg://someone@host/results")
    monkeypatch.setenv("DATABASE_PASSWORD_FILE", str(file))
    settings = read_settings()
    assert (settings.database.password, settings.database.host) == ("hunter/2@", "host")
    assert "hunter" not in f"{settings!r} {settings.database}"


@pytest.mark.parametrize(
    ("url", "content", "sentence"),
    [
        ("postgresql+psycopg://someone@host/results", None, "the file with the password cannot be read (no such"),
        ("postgresql+psycopg://someone@host/results", b" \n", "the file with the password is empty"),
        ("postgresql+psycopg://someone@host/results", b"\xff", "the file with the password cannot be read (it is no"),
        ("postgresql+psycopg://someone:hunter2@host/results", b"x", "it is for a database_url of postgresql that has "),
        ("sqlite:///results.db", b"x", "it is for a database_url of postgresql that has no password itself"),
    ],
)
def test_a_password_file_that_is_of_no_use_ends_the_program(monkeypatch, tmp_path, url, content, sentence):
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("DATABASE_PASSWORD_FILE", str(file))
    with pytest.raises(SystemExit) as ended:
        read_settings()
    assert str(ended.value).startswith(f"DATABASE_PASSWORD_FILE: {sentence}")
    assert "hunter2" not in str(ended.value)


@pytest.mark.parametrize(("name", "value"), [("PORT", "eighty"), ("WORKERS", "0"), ("MAX_WRITE_QUEUE", "none")])
def test_a_setting_that_makes_no_sense_ends_the_program_with_a_sentence(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=rf"^{name} is '{value}': input should "):
        read_settings()


def test_a_setting_of_another_service_in_the_same_environment_changes_nothing(monkeypatch):
    monkeypatch.setenv("MAX_QUEUE", "1")
    monkeypatch.setenv("MAX_BODY_BYTES", "1")
    assert read_settings() == Settings(max_write_queue=4096, max_write_bytes=4_000_000)


def test_settings_come_from_the_environment_and_an_empty_one_is_none(monkeypatch, sqlite_url):
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    monkeypatch.setenv("PORT", "")
    started = []
    monkeypatch.setattr(server, "run", lambda factory, settings: started.append((factory, settings)))
    runpy.run_path(app.__file__, run_name="__main__")
    ((factory, settings),) = started
    assert factory == "app:create_app"
    assert (settings.host, settings.port, settings.database_url) == ("127.0.0.1", 8003, sqlite_url)
