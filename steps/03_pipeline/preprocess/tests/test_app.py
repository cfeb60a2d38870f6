"""POST /features: what it takes, what it answers, and how it is described, logged and measured."""

import json

import pytest
from PIL import Image
from starlette.testclient import TestClient

import app
import features
from chassis import telemetry
from conftest import PNG, encode, png_that_claims, posted
from picture import read_ink
from settings import Settings

NOT_A_PICTURE = "the body is not a PNG or JPEG that can be read: is the file whole?"


@pytest.mark.parametrize(
    "kind", ["image/png", "image/jpeg", "image/jpg", "application/octet-stream", "Image/PNG; name=two.png"]
)
def test_a_picture_is_answered_with_its_features_and_their_version(client, kind):
    reply = posted(client, PNG, kind)
    assert (reply.status_code, list(reply.json())) == (200, ["features", "version"])
    assert reply.json() == {"features": features.v2(read_ink(PNG, 28 * 28)).tolist(), "version": "v2"}
    assert len(reply.json()["features"]) == 64
    assert all(type(number) is int and 0 <= number <= 16 for number in reply.json()["features"])


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_setting_chooses_the_version(version):
    with TestClient(app.create_app(Settings(preprocess_version=version))) as client:
        reply = posted(client, PNG).json()
    assert reply == {"features": features.VERSIONS[version](read_ink(PNG, 28 * 28)).tolist(), "version": version}


@pytest.mark.parametrize(
    ("content", "status", "sentence"),
    [
        (b"", 400, NOT_A_PICTURE),
        (PNG[:-30], 400, NOT_A_PICTURE),
        (encode(Image.new("L", (9, 9)), "GIF"), 400, NOT_A_PICTURE),
        (
            png_that_claims(9_000, 6_000),
            413,
            "the picture has 9,000 x 6,000 pixels, and at most 16,000,000 are allowed: send a smaller one",
        ),
        (encode(Image.new("L", (28, 28))), 422, "the picture is blank: nothing on it stands out from the paper"),
    ],
    ids=["empty", "truncated", "GIF", "giant", "blank"],
)
def test_what_has_no_ink_gets_a_sentence(client, content, status, sentence):
    reply = posted(client, content)
    assert (reply.status_code, reply.json()) == (status, {"error": sentence})


@pytest.mark.parametrize(
    "kind", ["", "image/gif", "application/json", "multipart/form-data; boundary=x", "image/png\xff"]
)
def test_another_content_type_gets_415(client, kind):
    reply = posted(client, PNG, kind.encode("latin-1"))
    assert reply.status_code == 415
    assert reply.json() == {"error": "send a PNG or JPEG, with the header Content-Type: image/png or image/jpeg"}


@pytest.mark.parametrize("limit", [2_000, 1_000_000])
def test_the_body_limit_is_exact_and_can_be_set(limit):
    with TestClient(app.create_app(Settings(max_body_bytes=limit))) as client:
        body = PNG.ljust(limit, b"\0")
        assert posted(client, body).status_code == 200
        reply = posted(client, body + b"\0")
    assert (reply.status_code, reply.json()) == (413, {"error": f"the body is larger than {limit:,} bytes"})


@pytest.mark.parametrize(("limit", "status"), [(1, 413), (783, 413), (784, 200)])
def test_the_pixel_limit_is_exact_and_can_be_set(limit, status):
    with TestClient(app.create_app(Settings(max_pixels=limit))) as client:
        assert posted(client, PNG).status_code == status


def test_a_body_in_many_pieces_is_one_picture(client):
    assert posted(client, (PNG[place : place + 1] for place in range(len(PNG)))).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/features", 405), ("POST", "/livez", 405)]
)
def test_errors_of_the_framework_are_ours_too(client, method, path, status):
    reply = client.request(method, path)
    assert reply.status_code == status
    assert list(reply.json()) == ["error"]


def test_the_manual_describes_the_service_and_opens_without_the_internet(client):
    document = client.get("/openapi.json").json()
    operation = document["paths"]["/features"]["post"]
    assert set(operation["responses"]) == {"200", "400", "413", "415", "422", "503"}
    assert operation["responses"]["422"]["content"]["application/json"]["schema"]["$ref"].endswith("/Error")
    bodies = operation["requestBody"]["content"]
    assert set(bodies) == {"image/png", "image/jpeg", "application/octet-stream"}
    assert {body["schema"]["format"] for body in bodies.values()} == {"binary"}
    assert operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/FeaturesResponse")
    assert "HTTPValidationError" not in json.dumps(document)
    page = client.get("/docs").text
    assert "http" not in page.replace("https://fastapi.tiangolo.com/img/favicon.png", "")
    assert client.get("/static-offline-docs/swagger-ui-bundle.js").status_code == 200


def test_a_request_keeps_its_id_in_the_reply_and_in_the_log(client, capsys):
    telemetry.log_lines.flush()
    capsys.readouterr()
    reply = client.post("/features", content=PNG, headers={"Content-Type": "image/png", "X-Request-ID": "abc-1"})
    assert (reply.status_code, reply.headers["X-Request-ID"]) == (200, "abc-1")
    telemetry.log_lines.flush()
    line = json.loads(capsys.readouterr().out)
    assert (line["request_id"], line["path"], line["status"]) == ("abc-1", "/features", 200)


def test_the_metrics_tell_how_long_pictures_take_by_version_and_count_requests(client):
    def samples() -> dict[str, float]:
        lines = client.get("/metrics").text.splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    before = samples()
    assert [posted(client, content).status_code for content in (PNG, PNG, b"")] == [200, 200, 400]
    after = samples()
    counted = 'preprocess_seconds_count{version="v2"}'
    assert after[counted] - before[counted] == 3
    assert 0 < after['preprocess_seconds_sum{version="v2"}'] - before['preprocess_seconds_sum{version="v2"}'] < 10
    for status, count in (("200", 2), ("400", 1)):
        name = f'http_request_duration_seconds_count{{method="POST",route="/features",status="{status}"}}'
        assert after[name] - before.get(name, 0) == count
