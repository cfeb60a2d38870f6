"""The container for rooms that have only browsers. It is read here and never run: its image cannot be fetched here."""

import json
import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

import start
from conftest import ROOT

SETTINGS = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
SCHEMA = Draft202012Validator(json.loads(Path(__file__).with_name("devcontainer.schema.json").read_text()))
WRONG = {
    "a misspelt key": {"postCreateComand": "python3 start.py prepare"},
    "a port that is a text": {"forwardPorts": ["8888"]},
    "a size without its unit": {"hostRequirements": {"memory": "8 GB"}},
    "an unknown way to forward": {"portsAttributes": {"8000": {"onAutoForward": "open"}}},
}


def complaints(settings: dict) -> list[str]:
    """What the schema has against these settings."""
    return [f"{error.json_path}: {error.message}" for error in SCHEMA.iter_errors(settings)]


def test_the_file_follows_its_schema():
    assert complaints(SETTINGS) == []


@pytest.mark.parametrize("wrong", WRONG)
def test_the_schema_refuses(wrong):
    (complaint,) = complaints(SETTINGS | WRONG[wrong])
    assert next(iter(WRONG[wrong])) in complaint


def test_it_prepares_and_names_the_ports_as_start_py_does():
    assert SETTINGS["postCreateCommand"] == "python3 start.py prepare"
    labels = {int(port): what["label"] for port, what in SETTINGS["portsAttributes"].items()}
    assert labels == {8888: "JupyterLab", **start.PORTS}
    assert set(SETTINGS["forwardPorts"]) == {8888, 8000}


def test_its_python_is_one_that_inferir_runs_on_and_docker_is_in_it():
    version = re.fullmatch(r"mcr\.microsoft\.com/devcontainers/python:3\.(\d+)-bookworm", SETTINGS["image"])
    assert 11 <= int(version[1]) <= 14
    (feature,) = SETTINGS["features"]
    assert feature.startswith("ghcr.io/devcontainers/features/docker-in-docker:")
