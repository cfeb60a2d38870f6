"""Settings, all of them environment variables."""

import runpy

import pytest

import app
from chassis import server
from settings import read_settings


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "eighty"), ("PORT", "99999"), ("WORKERS", "0"), ("MODEL_FORMAT", "pmml"), ("MAX_BODY_BYTES", "1e9")],
)
def test_a_setting_that_makes_no_sense_ends_the_program_with_a_sentence(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=rf"^{name} is '{value}': input should "):
        read_settings()


def test_settings_come_from_the_environment_and_an_empty_one_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("MODEL_DIR", str(tmp_path))
    monkeypatch.setenv("PORT", "")
    monkeypatch.setenv("HOST", "0.0.0.0")
    started = []
    monkeypatch.setattr(server, "run", lambda factory, settings: started.append((factory, settings)))
    runpy.run_path(app.__file__, run_name="__main__")
    ((factory, settings),) = started
    assert factory == "app:create_app"
    assert (settings.host, settings.port, settings.model_dir) == ("0.0.0.0", 8000, tmp_path)
