"""The settings of the service, and a process of it."""

import json
import runpy
from http.client import HTTPConnection

import numpy as np
import pytest

import app
import features
from chassis import server
from conftest import PNG, draw_two, encode
from picture import read_ink
from settings import Settings, read_settings


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "eighty"), ("THREADS", "0"), ("MAX_PICTURES", "0"), ("PREPROCESS_VERSION", "v3"), ("MAX_PIXELS", "1e9")],
)
def test_a_setting_that_makes_no_sense_ends_the_program_with_a_sentence(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=rf"^{name} is '{value}': input should "):
        read_settings()


def test_a_setting_of_another_service_in_the_same_environment_changes_nothing(monkeypatch):
    monkeypatch.setenv("MAX_QUEUE", "1")
    assert read_settings() == Settings(max_pictures=64)


def test_settings_come_from_the_environment_and_an_empty_one_is_none(monkeypatch):
    monkeypatch.setenv("PREPROCESS_VERSION", "v1")
    monkeypatch.setenv("PORT", "")
    monkeypatch.setenv("HOST", "0.0.0.0")
    started = []
    monkeypatch.setattr(server, "run", lambda factory, settings: started.append((factory, settings)))
    runpy.run_path(app.__file__, run_name="__main__")
    ((factory, settings),) = started
    assert factory == "app:create_app"
    assert (settings.host, settings.port, settings.preprocess_version) == ("0.0.0.0", 8001, "v1")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_process_of_the_service_answers_pictures_and_every_line_of_its_log_is_json(start, version):
    running = start(preprocess_version=version)
    # Notes of a camera that Pillow has warnings about, one for each of a thousand entries
    exif = b"Exif\0\0II*\0\x08\0\0\0" + (1_000).to_bytes(2, "little")
    exif += b"".join(tag.to_bytes(2, "little") + b"\x02\0\xff\xff\0\0\x08\0\0\0" for tag in range(1, 1_001))
    two = np.uint8(255 * draw_two(28, stroke=0.1))
    jpeg = encode(two, "JPEG", quality=95, exif=exif)
    connection = HTTPConnection(running.address, timeout=20)
    answers = []
    for content in (PNG, jpeg, b"", PNG):
        connection.request("POST", "/features", content, {"Content-Type": "image/png"})
        reply = connection.getresponse()
        answers.append((reply.status, json.loads(reply.read())))
    expected = features.VERSIONS[version](read_ink(PNG, 28 * 28)).tolist()
    assert answers[0] == answers[3] == (200, {"features": expected, "version": version})
    assert [status for status, _ in answers] == [200, 200, 400, 200]
    connection.close()
    if running.ask_to_leave():
        assert [line["status"] for line in running.log if line["message"] == "request"] == [200, 200, 400, 200]
        assert running.other == []
