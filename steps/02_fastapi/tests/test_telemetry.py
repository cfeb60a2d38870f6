"""Ids of requests, metrics, the log."""

import errno
import io
import json
import types

import pytest
from starlette.testclient import TestClient

from chassis import telemetry
from conftest import ROW, posted


def test_a_log_that_cannot_be_written_fails_no_request(client, monkeypatch):
    def fail(text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(telemetry.sys, "stdout", types.SimpleNamespace(write=fail))
    assert [posted(client, ROW).status_code for _ in range(50)] == [200] * 50
    assert len(telemetry.log_lines._lines) < 50


def test_a_request_keeps_its_id_in_the_reply_and_in_the_log(client, capsys):
    telemetry.log_lines.flush()
    capsys.readouterr()
    for path, status in (("/docs", 200), ("/nowhere", 404)):
        reply = client.get(path, headers={"X-Request-ID": f"abc-{status}"})
        assert (reply.status_code, reply.headers["X-Request-ID"]) == (status, f"abc-{status}")
    telemetry.log_lines.flush()
    one, two = map(json.loads, capsys.readouterr().out.splitlines())
    assert (one["request_id"], one["path"], one["status"]) == ("abc-200", "/docs", 200)
    assert (two["request_id"], two["path"], two["status"]) == ("abc-404", "/nowhere", 404)
    assert 0 < one["ms"] < 1000


@pytest.mark.parametrize("sent", [None, "", 'x"}\t{"level": "ERROR"', "x" * 4097])
def test_a_request_without_an_id_or_with_a_bad_one_gets_a_new_one(client, sent):
    ids = {
        client.get("/livez", headers={} if sent is None else {"X-Request-ID": sent}).headers["X-Request-ID"]
        for _ in range(2)
    }
    assert len(ids) == 2
    assert all(len(id_) == 32 and id_.isalnum() for id_ in ids)


def samples(client) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_the_metrics_count_requests_by_route_and_batches(client):
    before = samples(client)
    posted(client, ROW)
    posted(client, [ROW] * 3)
    posted(client, "seven")
    client.get("/made/up/1")
    client.get("/made/up/2")
    after = samples(client)

    def more(name: str) -> float:
        return after[name] - before.get(name, 0)

    for status, count in (("200", 2), ("422", 1)):
        labels = f'{{method="POST",route="/inferir",status="{status}"}}'
        assert more(f"http_request_duration_seconds_count{labels}") == count
        assert more(f"http_request_duration_seconds_sum{labels}") > 0
    assert more('http_request_duration_seconds_count{method="GET",route="other",status="404"}') == 2
    assert not any("made" in name for name in after)
    assert (more("batch_rows_count"), more("batch_rows_sum")) == (2, 4)
    assert more("queue_wait_seconds_count") == more("predict_seconds_count") == 2
    assert more("predict_seconds_sum") > 0


def test_head_is_counted_under_its_route_and_logged_where_get_is(client, capsys):
    before = samples(client)
    telemetry.log_lines.flush()
    capsys.readouterr()
    asked = {"/livez": 200, "/readyz": 200, "/docs": 200, "/inferir": 405}
    assert {path: client.head(path).status_code for path in asked} == asked
    telemetry.log_lines.flush()
    lines = list(map(json.loads, capsys.readouterr().out.splitlines()))
    assert [(line["method"], line["path"]) for line in lines] == [("HEAD", "/docs"), ("HEAD", "/inferir")]
    after = samples(client)
    for route, status in asked.items():
        name = f'http_request_duration_seconds_count{{method="HEAD",route="{route}",status="{status}"}}'
        assert after[name] - before.get(name, 0) == 1


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_line_that_stdout_cannot_encode_loses_no_line(client: TestClient, monkeypatch, encoding):
    telemetry.log_lines.flush()
    written = io.BytesIO()
    monkeypatch.setattr(telemetry.sys, "stdout", io.TextIOWrapper(written, encoding))
    for path in ("/before", "/%E2%98%83", "/after"):
        assert client.get(path).status_code == 404
    telemetry.log_lines.flush()
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [line["path"] for line in lines] == ["/before", "/\u2603", "/after"]
