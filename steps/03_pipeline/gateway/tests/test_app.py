"""What the gateway answers to rows, batches, pictures and forms, and what it refuses."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from fakes import FEATURES, MODEL

PNG = {"Content-Type": "image/png"}
ROW = [0.5] * 64


def test_a_row_goes_through_inference_and_storage(gateway, preprocess, inference, storage):
    reply = gateway.post("/inferir", json={"features": ROW}, headers={"X-Request-ID": "from-outside"})
    assert reply.status_code == 200
    answer = reply.json()
    assert answer["prediction"] == [3] and answer["probabilities"] == [[0.1] * 10] and answer["model"] == MODEL
    assert answer["stored"] is True and "storage" not in answer and "features" not in answer
    assert list(answer["timings_ms"]) == ["inference", "storage", "total"]
    assert preprocess.asked == []
    assert json.loads(*inference.bodies("/inferir")) == {"features": [ROW]}
    ((_, headers, body),) = storage.asked
    (stored,) = json.loads(body)["results"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", stored.pop("time"))
    assert stored.pop("timings_ms") == {"inference": answer["timings_ms"]["inference"]}
    assert stored == {
        "id": answer["id"],
        "request_id": "from-outside",
        "features": ROW,
        "prediction": 3,
        "probabilities": [0.1] * 10,
        "model": MODEL,
        "preprocess": None,
    }


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg"])
def test_a_picture_goes_through_all_three(gateway, preprocess, inference, storage, kind):
    reply = gateway.post("/inferir", content=b"a picture", headers={"Content-Type": kind})
    answer = reply.json()
    assert answer["prediction"] == [3] and answer["features"] == FEATURES and answer["preprocess"] == "v2"
    hops = answer["timings_ms"]
    assert list(hops) == ["preprocess", "inference", "storage", "total"]
    assert 0 < sum(hops.values()) - hops["total"] <= hops["total"]
    ((path, headers, body),) = preprocess.asked
    assert (path, headers["Content-Type"], body) == ("/features", kind, b"a picture")
    assert json.loads(*inference.bodies("/inferir")) == {"features": [FEATURES]}
    (stored,) = json.loads(*storage.bodies("/results"))["results"]
    assert stored["preprocess"] == "v2" and stored["features"] == FEATURES
    assert list(stored["timings_ms"]) == ["preprocess", "inference"]


def test_a_batch_is_stored_row_by_row(gateway, storage):
    answer = gateway.post("/inferir", json={"features": [ROW, FEATURES]}).json()
    assert answer["prediction"] == [3, 3]
    results = json.loads(*storage.bodies("/results"))["results"]
    assert [result["id"] for result in results] == [f"{answer['id']}.0", f"{answer['id']}.1"]
    assert [result["features"] for result in results] == [ROW, FEATURES]


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        (("digit.png", b"a picture", "image/png"), "image/png"),
        (("digit.jpg", b"a picture", "image/jpeg"), "image/jpeg"),
        (("digit", b"a picture", "application/octet-stream"), "application/octet-stream"),
        (("digit.gif", b"a picture", "image/gif"), "application/octet-stream"),
    ],
)
def test_a_form_may_bring_the_picture(gateway, preprocess, file, kind):
    reply = gateway.post("/inferir", files={"image": file}, data={"note": "other fields are left alone"})
    assert reply.status_code == 200 and reply.json()["features"] == FEATURES
    ((_, headers, body),) = preprocess.asked
    assert (headers["Content-Type"], body) == (kind, b"a picture")


FORM_TYPE = {"Content-Type": "multipart/form-data; boundary=x"}
PUNYCODE = {"Content-Type": "multipart/form-data; boundary=x; charset=punycode"}
FORM = b"--x\r\nContent-Disposition: form-data; name=image; filename*=UTF-8''%E2%98%83\r\n\r\na picture\r\n--x--\r\n"


def test_the_name_of_a_file_may_be_written_as_rfc_8187_says(gateway, preprocess):
    assert gateway.post("/inferir", content=FORM, headers=FORM_TYPE).json()["prediction"] == [3]
    assert preprocess.asked[0][2] == b"a picture"


def test_other_names_of_a_media_type_are_taken(gateway, preprocess):
    assert gateway.post("/inferir", content=b"a picture", headers={"Content-Type": "image/jpg"}).status_code == 200
    assert preprocess.asked[0][1]["Content-Type"] == "image/jpeg"


@pytest.mark.parametrize(
    ("sent", "status", "says"),
    [
        ({"content": b"seven", "headers": {"Content-Type": "application/json"}}, 400, "not JSON"),
        ({"json": {"features": [0] * 63}}, 422, "list of 64"),
        ({"json": {"features": [[0] * 64] * 1025}}, 413, "1,024 rows"),
        ({"content": b"<svg/>", "headers": {"Content-Type": "image/svg+xml"}}, 415, "image/png"),
        ({"content": b"a picture"}, 415, "image/png"),
        ({"content": b"x" * 1_000_001, "headers": PNG}, 413, "1,000,000 bytes"),
        ({"files": {"image": ("big.png", b"x" * 1_000_000, "image/png")}}, 413, "1,000,000 bytes"),
        ({"files": {"picture": ("digit.png", b"x", "image/png")}}, 422, "no file `image`"),
        ({"files": {"image": (None, b"text")}}, 422, "the part `image` of the form has no file name"),
        ({"content": FORM[:-6], "headers": FORM_TYPE}, 400, "its end is missing"),
        ({"content": b"no form", "headers": {"Content-Type": "multipart/form-data"}}, 400, "a file `image`"),
        ({"content": b"no form", "headers": FORM_TYPE}, 400, "form"),
        # to decode a megabyte as punycode would take ten minutes
        ({"content": b"a form", "headers": PUNYCODE}, 400, "send it in UTF-8"),
        (
            {"content": b"--x\r\n\r\n\r\n--x--", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
            400,
            "f",
        ),
        ({"files": [("image", ("digit.png", b"x"))] * 11}, 400, "a file `image`"),
    ],
)
def test_what_cannot_be_taken_is_refused_before_any_service_is_asked(
    gateway, preprocess, inference, sent, status, says
):
    reply = gateway.post("/inferir", **sent)
    assert reply.status_code == status
    assert list(reply.json()) == ["error"] and says in reply.json()["error"]
    assert preprocess.asked == inference.asked == []


def test_a_request_id_reaches_every_service(gateway, preprocess, inference, storage):
    reply = gateway.post("/inferir", content=b"a picture", headers={**PNG, "X-Request-ID": "from-outside"})
    assert reply.headers["X-Request-ID"] == "from-outside"
    for fake in (preprocess, inference):
        assert [headers["X-Request-ID"] for _, headers, _ in fake.asked] == ["from-outside"]
    (stored,) = json.loads(*storage.bodies("/results"))["results"]
    assert stored["request_id"] == "from-outside"


def test_connections_are_kept_and_used_again(gateway, preprocess, inference, storage):
    for _ in range(20):
        assert gateway.post("/inferir", content=b"a picture", headers=PNG).json()["stored"]
    assert (preprocess.connections, inference.connections, storage.connections) == (1, 1, 1)


def test_many_clients_share_calls_and_are_all_named_in_them(open_gateway, inference, storage):
    gateway = open_gateway(deadline_seconds=20)

    def send(number: int):
        return gateway.post("/inferir", json={"features": ROW}, headers={"X-Request-ID": f"client-{number}"})

    with ThreadPoolExecutor(32) as clients:
        answers = [reply.json() for reply in clients.map(send, range(200))]
    assert all(answer["stored"] for answer in answers)
    calls = [json.loads(body)["results"] for body in storage.bodies("/results")]
    stored = {result["id"]: result["request_id"] for results in calls for result in results}
    assert stored == {answer["id"]: f"client-{number}" for number, answer in enumerate(answers)}
    for fake in (inference, storage):
        assert len(fake.asked) < 200
        named = [name for _, headers, _ in fake.asked for name in headers["X-Request-ID"].split(",")]
        assert sorted(named) == sorted(f"client-{number}" for number in range(200))
