"""Which keys the gateway takes from a file."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

import app
from api_key import read_api_key
from conftest import API_KEY as KEY
from settings import Settings, read_settings

NO_KEYS = {
    "empty": (b"", "the file is empty"),
    "blank": (b" \r\n\t\n", "the file is empty"),
    "short": (b"fifteen-letters", "16 or more visible ASCII characters"),
    "two words": (b"correct-horse battery-staple", "without a space"),
    "two lines": (b"correct-horse-1\ncorrect-horse-2", "without a space"),
    "not ASCII": ("schl\u00fcssel-f\u00fcr-alles".encode(), "visible ASCII"),
    "with a byte order mark": (b"\xef\xbb\xbfcorrect-horse-battery", "visible ASCII"),
    "UTF-16, as old PowerShells write": ("correct-horse-battery".encode("utf-16"), "visible ASCII"),
    "a control character": (b"correct-horse-\x07-battery", "visible ASCII"),
}


def test_the_key_is_the_files_without_the_space_around_it(key_file):
    assert read_api_key(key_file) == KEY.encode()
    settings = Settings(api_key_file=key_file)
    assert KEY not in repr(settings) and KEY not in settings.model_dump_json()


def test_the_file_is_read_once(monkeypatch, key_file):
    monkeypatch.setenv("API_KEY_FILE", str(key_file))
    read_settings.cache_clear()
    try:
        settings = read_settings()
        key_file.unlink()
        assert read_settings() is settings and settings.api_key.get_secret_value() == KEY.encode()
    finally:
        read_settings.cache_clear()


@pytest.mark.parametrize("name", NO_KEYS)
def test_a_file_without_a_valid_key_is_refused_and_not_shown(monkeypatch, tmp_path, name):
    content, says = NO_KEYS[name]
    file = tmp_path / "api_key"
    file.write_bytes(content)
    assert_not_taken(monkeypatch, file, says)


def test_a_file_that_cannot_be_read_is_refused(monkeypatch, tmp_path):
    for path in (tmp_path / "missing", tmp_path, KEY):
        assert_not_taken(monkeypatch, path, "the file with the key cannot be read (")


def assert_not_taken(monkeypatch, path, says):
    with pytest.raises(ValidationError, match=re.escape(says)) as refused:
        Settings(api_key_file=path)
    monkeypatch.setenv("API_KEY_FILE", str(path))
    with pytest.raises(SystemExit) as ended:
        read_settings()
    assert str(ended.value).startswith("API_KEY_FILE: ") and says in str(ended.value)
    for secret in ("correct", "fifteen", KEY):
        assert secret not in str(refused.value) and secret not in str(ended.value)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_program_ends_with_the_reason(tmp_path, workers):
    env = {**os.environ, "API_KEY_FILE": str(tmp_path / "missing"), "PORT": "0", "WORKERS": workers}
    command = [sys.executable, Path(app.__file__).name]
    done = subprocess.run(command, cwd=Path(app.__file__).parent, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "API_KEY_FILE: the file with the key cannot be read (No such file or directory)\n"


def test_an_empty_setting_means_no_key(monkeypatch):
    monkeypatch.setenv("API_KEY_FILE", "")
    assert Settings().api_key is None
