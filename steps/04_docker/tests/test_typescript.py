"""With compose.typescript.yaml, inference is in TypeScript, and nobody else notices."""

import os

import pytest

from load import DRAWING, Load, audit
from stack import wait_until


@pytest.fixture(autouse=True, scope="module")
def typescript(stack):
    """Swap inference alone, and swap it back."""
    stack.settings["COMPOSE_FILE"] = os.pathsep.join(["compose.yaml", "compose.typescript.yaml"])
    stack.up("inference")
    stack.wait_until_ready()
    yield
    del stack.settings["COMPOSE_FILE"]
    stack.up("inference")


def test_a_drawing_is_recognized_and_the_history_tells_version_and_format(stack):
    assert "node" in stack.run_in("inference", "cat", "/proc/1/cmdline")
    answer = stack.post(**DRAWING).json()
    assert (answer["prediction"], answer["stored"], answer["model"]["format"]) == ([3], "queued", "onnx")
    wait_until(lambda: stack.sql(f"SELECT 1 FROM results WHERE id = '{answer['id']}'") == [["1"]])
    newest = stack.get("/results?limit=1").json()["results"][0]
    assert (newest["id"], newest["model"]) == (answer["id"], answer["model"])
    assert stack.unready() == []


def test_a_crash_under_load_is_over_soon_and_nothing_is_lost(stack):
    with Load(stack, clients=4) as load:
        load.wait_for(100)
        stack.crash("inference")
        wait_until(lambda: stack.restarts("inference") == 1)
        stack.wait_until_ready()
        load.wait_for(100)
    failed = [answer for answer in load.answers if answer.status != 200]
    assert {answer.status for answer in failed} <= {503}
    assert all(answer.body["error"].startswith("inference") for answer in failed)
    found = audit(stack, load.answers)
    assert (found.lost, found.doubled) == (0, 0)
    assert found.acknowledged > 200
