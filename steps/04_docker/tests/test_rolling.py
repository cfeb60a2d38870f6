"""roll.py replaces services while the pipeline answers."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from changing import change, copied_stack, override
from load import DRAWING, Answer, Load, audit
from stack import Stack, run

SMALL = ("COPIES = 15", "COPIES = 0"), ("DRAWN = 700", "DRAWN = 20")  # a model that is trained in a second
REPLICAS = {"inference": 2, "preprocess": 1, "storage": 1}
OTHERS = "gateway", "broker", "database"
ROLL_SECONDS = 300


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    with copied_stack(tmp_path_factory.mktemp("rolling"), PREPROCESS_VERSION="v1") as stack:
        change(stack.services / "inference/train.py", *SMALL)
        override(stack, gateway={"DEADLINE_SECONDS": 8})  # a slow disk is not a failure here
        stack.up("--scale=inference=2")
        yield stack


def roll(stack: Stack, *arguments: str) -> str:
    """Run roll.py and return what it prints. Raises RuntimeError with its output."""
    return run([sys.executable, "roll.py", *arguments], stack.folder, stack.settings, ROLL_SECONDS)


@contextmanager
def under_load(stack: Stack) -> Iterator[list[Answer]]:
    """Send rows and pictures while the block runs. Afterwards, the list holds the answers, oldest first."""
    answers: list[Answer] = []
    with Load(stack, clients=4, rate=40) as rows, Load(stack, clients=4, rate=10, **DRAWING) as pictures:
        pictures.wait_for(10)
        yield answers
        pictures.wait_for(25)
    answers += sorted(rows.answers + pictures.answers, key=lambda answer: answer.at)


def containers(stack: Stack, *services: str) -> dict[str, set[tuple[str, str]]]:
    """The containers of each service, by id and the time of their start."""
    return {
        service: {(id, stack.inspect(id)["State"]["StartedAt"]) for id in stack.containers(service)}
        for service in services or (*OTHERS, *REPLICAS)
    }


def unsatisfied(answers: list[Answer]) -> Counter:
    """Count the requests that failed or were not stored, by their error."""
    bad = [answer for answer in answers if answer.status != 200 or answer.body["stored"] != "queued"]
    return Counter((answer.status, answer.body.get("error") or answer.body.get("storage")) for answer in bad)


class Rolled(NamedTuple):
    answers: list[Answer]
    said: str
    before: dict[str, set]
    after: dict[str, set]


@pytest.fixture(scope="module")
def rolled(stack):
    """Roll a new model, v2 of preprocess, and storage without a change, one after the other."""
    before = containers(stack)
    change(stack.services / "inference/train.py", ("DRAWN = 20", "DRAWN = 30"))
    stack.settings["PREPROCESS_VERSION"] = "v2"
    with under_load(stack) as answers:
        said = roll(stack, "inference", "preprocess", "storage")
    return Rolled(answers, said, before, containers(stack))


def test_no_request_fails_while_services_are_replaced(rolled, capsys):
    slowest = max(answer.seconds for answer in rolled.answers)
    with capsys.disabled():
        print(f"\n{rolled.said}{len(rolled.answers):,} requests meanwhile, the slowest took {slowest:.2f} s")
    assert len(rolled.answers) > 1000
    assert not unsatisfied(rolled.answers)
    for service, replicas in REPLICAS.items():
        assert f"{service}: {replicas} of {replicas} containers replaced" in rolled.said
        assert len(rolled.after[service]) == replicas
        assert not rolled.after[service] & rolled.before[service]


def test_other_containers_are_untouched(rolled):
    for service in OTHERS:
        assert rolled.after[service] == rolled.before[service]


def test_every_answer_is_stored_once(stack, rolled):
    found = audit(stack, rolled.answers)
    assert (found.lost, found.doubled, found.acknowledged) == (0, 0, len(rolled.answers))


def test_the_history_shows_the_old_versions_first_and_the_new_ones_afterwards(stack, rolled):
    audit(stack, rolled.answers)
    models = [version for (version,) in stack.sql("SELECT model_version FROM results ORDER BY time, id")]
    old, new = models[0], models[-1]
    assert old != new and {*models} == {old, new}
    assert stack.get("/results/summary").json()["by_model_version"] == Counter(models)
    newest = stack.get("/results?limit=1").json()["results"][0]
    assert newest["model"] == {"version": new, "format": "onnx"}
    pictures = stack.sql("SELECT preprocess, model_version FROM results WHERE preprocess IS NOT NULL ORDER BY time, id")
    # Inference came first, so v2 has only worked for the new model.
    assert list(dict.fromkeys(map(tuple, pictures))) == [("v1", old), ("v1", new), ("v2", new)]


def test_a_version_that_crashes_is_removed_and_no_request_fails(stack):
    app = stack.services / "preprocess/app.py"
    text, before = app.read_text("utf-8"), containers(stack)
    app.write_text(text + "def unfinished(\n", "utf-8")
    with (
        under_load(stack) as answers,
        pytest.raises(RuntimeError, match="(?s)SyntaxError.*crashed.*nothing has changed"),
    ):
        roll(stack, "preprocess")
    app.write_text(text, "utf-8")
    assert not unsatisfied(answers)
    assert containers(stack) == before


def test_a_model_that_is_not_valid_is_removed_and_no_request_fails(stack):
    train = stack.services / "inference/train.py"
    saved, before = '    print(f"saved in', containers(stack)
    change(train, (saved, '    (folder / "model.onnx").write_bytes(b"cut off")\n' + saved))
    why = "(?s)model.onnx is not the file that manifest.json describes.*not healthy.*nothing has changed"
    with under_load(stack) as answers, pytest.raises(RuntimeError, match=why):
        roll(stack, "--wait-timeout=20", "inference")
    change(train, ('    (folder / "model.onnx").write_bytes(b"cut off")\n', ""))
    assert not unsatisfied(answers)
    assert containers(stack) == before


def test_a_model_that_cannot_be_trained_changes_nothing(stack):
    train, before = stack.services / "inference/train.py", containers(stack)
    change(train, ("SEED = 0", "SEED = nothing"))
    with pytest.raises(RuntimeError, match="(?s)NameError.*build inference` has failed"):
        roll(stack, "inference")
    change(train, ("SEED = nothing", "SEED = 0"))
    assert containers(stack) == before


@pytest.mark.skipif(sys.platform == "win32", reason="on Windows, Ctrl-C goes to all programs of a console")
def test_ctrl_c_leaves_as_many_replicas_as_there_were(stack):
    before = containers(stack)["inference"]
    command, pipe = [sys.executable, "roll.py", "inference"], subprocess.PIPE
    with subprocess.Popen(
        command, cwd=stack.folder, env={**os.environ, **stack.settings}, stdout=pipe, stderr=pipe, text=True
    ) as rolling:
        try:
            next(line for line in rolling.stdout if "ended after" in line)
            rolling.send_signal(signal.SIGINT)
            said = rolling.communicate(timeout=ROLL_SECONDS)[1]
        finally:
            rolling.kill()
    assert rolling.returncode == 1
    assert "interrupted\ninference: 1 of 2 containers replaced; try again" in said
    after = containers(stack)["inference"]
    assert (len(after), len(after & before)) == (2, 1)


@pytest.mark.parametrize(
    "service, sentence",
    [
        ("gateway", "it has a port of this machine, which two containers cannot share: `docker compose up"),
        ("broker", "it writes to a volume, which two containers cannot share: `docker compose up"),
        ("database", "it writes to a volume, which two containers cannot share: `docker compose up"),
        ("secrets", "it writes to a volume, which two containers cannot share: `docker compose up"),
        ("storag", "there is no service storag: choose among broker, database, gateway, inference"),
    ],
)
def test_what_cannot_be_rolled_is_refused_with_what_to_do(stack, service, sentence):
    before = containers(stack)
    with pytest.raises(RuntimeError, match=sentence):
        roll(stack, "inference", service)
    assert containers(stack) == before


def test_compose_has_nothing_to_do_afterwards(stack):
    """All tests above have left the stack in this state."""
    before = containers(stack)
    stack.compose("up", "--detach", "--wait", "--no-build", "--scale=inference=2")
    assert containers(stack) == before


def test_a_service_that_does_not_run_is_not_rolled(stack):
    stack.compose("rm", "--stop", "--force", "preprocess")
    with pytest.raises(RuntimeError, match="preprocess does not run: start it by `docker compose up --build --wait"):
        roll(stack, "preprocess")
