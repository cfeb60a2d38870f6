"""Which Idempotency-Keys the gateway takes."""

import re

import pytest
from keyed import ROW, send

INVALID = {"error": "send one Idempotency-Key, of 1 to 128 visible ASCII characters"}


@pytest.mark.parametrize(
    "key",
    [b"", b" ", b"two words", b"a\tb", b"a\nb", b"a\x00b", b"a\x7f", "é".encode(), b"x" * 129, b"\xff"],
)
def test_a_invalid_key_is_refused(gateway, inference, key):
    reply = send(gateway, key)
    assert (reply.status_code, reply.json()) == (422, INVALID)
    assert inference.asked == []


def test_two_keys_are_refused(gateway, inference):
    for second in (b"a", b"b"):
        reply = gateway.post("/inferir", json=ROW, headers=[(b"Idempotency-Key", b"a"), (b"idempotency-key", second)])
        assert (reply.status_code, reply.json()) == (422, INVALID)
    assert inference.asked == []


@pytest.mark.parametrize("key", ["!", "~" * 128, "a,b;c=d/e\\f{}$*>.", "../../etc/passwd", "';DROP/**/TABLE/**/x;--"])
def test_any_visible_characters_make_a_key(keyed, key):
    first, second = (send(keyed.client, key).json() for _ in range(2))
    assert first["id"] == second["id"] and first["stored"] == keyed.promise


def test_a_request_that_cannot_be_read_uses_up_no_key(gateway, storage):
    assert send(gateway, "early", b"{", {"Content-Type": "application/json"}).status_code == 400
    assert send(gateway, "early", b"x", {"Content-Type": "text/plain"}).status_code == 415
    assert send(gateway, "early", {"features": [1]}).status_code == 422
    assert storage.asked == []
    assert send(gateway, "early").json()["stored"] is True


def test_the_manual_describes_the_key(gateway):
    manual = gateway.get("/openapi.json").json()
    (parameter,) = manual["paths"]["/inferir"]["post"]["parameters"]
    assert (parameter["name"], parameter["in"], "required" in parameter) == ("Idempotency-Key", "header", False)
    assert re.fullmatch(parameter["schema"]["pattern"], "order-66")
    stored = manual["components"]["schemas"]["PipelineResponse"]["properties"]["stored"]
    assert {"type": "boolean"} in stored["anyOf"] and {"type": "string", "const": "queued"} in stored["anyOf"]
