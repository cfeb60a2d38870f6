import runpy

import pytest
from starlette.testclient import TestClient

import app
import settings
from chassis import server
from settings import Settings, read_settings


@pytest.mark.parametrize(
    "url",
    ["results.db", "sqlite://", "sqlite:///:memory:", "mysql://u:hunter2@h/d", "postgresql+psycopg://u:hunter2@h:x/d"],
)
def test_a_database_url_of_another_kind_ends_the_program_without_showing_a_password(monkeypatch, url):
    monkeypatch.setenv("DATABASE_URL", url)
    with pytest.raises(SystemExit, match="^DATABASE_URL: sqlite:///FILE or postgresql") as ended:
        read_settings()
    assert "hunter2" not in str(ended.value)


def test_a_question_mark_in_the_path_of_the_folder_stays_in_the_path(monkeypatch, tmp_path):
    folder = tmp_path / "what? now" / "storage"
    folder.mkdir(parents=True)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setattr(settings, "__file__", str(folder / "settings.py"))
    with TestClient(app.create_app(read_settings())):
        assert (folder / "results.db").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["what? now"]


def test_a_question_mark_in_database_url_is_refused(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "sqlite:////tmp/what?/results.db")
    with pytest.raises(SystemExit, match=r"^DATABASE_URL: what follows a \? is not part of the path"):
        read_settings()


def test_a_password_in_a_file_is_used_and_never_shown(monkeypatch, tmp_path):
    file = tmp_path / "password"
    file.write_text("hunter/2@\n")
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg://someone@host/results")
    monkeypatch.setenv("DATABASE_PASSWORD_FILE", str(file))
    read = read_settings()
    assert (read.database.password, read.database.host) == ("hunter/2@", "host")
    assert "hunter" not in f"{read!r} {read.database}"


@pytest.mark.parametrize(
    ("url", "content", "sentence"),
    [
        ("postgresql+psycopg://someone@host/results", None, "the file with the password cannot be read (No such"),
        ("postgresql+psycopg://someone@host/results", b" \n", "the file with the password is empty"),
        ("postgresql+psycopg://someone@host/results", b"\xff", "the file with the password cannot be read (it is no"),
        ("postgresql+psycopg://someone:hunter2@host/results", b"x", "it is for a DATABASE_URL of PostgreSQL that has "),
        ("sqlite:///results.db", b"x", "it is for a DATABASE_URL of PostgreSQL that has no password itself"),
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


@pytest.mark.parametrize(
    "url",
    [
        "http://me:swordfish@a",
        "me:swordfish@a:4222",
        "nats://me:swordfish@",
        "nats://me:swordfish@a:port",
        "nats://me:sword#fish@a",
        "nats://me:swordfish@a/path",
        "nats://me:swordfish@a,nats://b",
        "nats://me:swordfish@a,",
    ],
)
def test_a_broker_url_of_another_kind_ends_the_program_without_showing_a_password(monkeypatch, url):
    monkeypatch.setenv("NATS_URL", url)
    with pytest.raises(SystemExit, match="^NATS_URL: nats://HOST:PORT or nats://USER:PASSWORD@HOST:PORT is ") as ended:
        read_settings()
    assert "fish" not in str(ended.value)


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
    ((factory, used),) = started
    assert factory == "app:create_app"
    assert (used.host, used.port, used.database_url) == ("127.0.0.1", 8003, sqlite_url)
