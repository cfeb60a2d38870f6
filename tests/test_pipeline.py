"""The pipeline of step 03 as real processes: killed, replaced, and asked all the while.

The notebook 03_pipeline lets each service hang, and kills storage under load. Step 04's tests do both with containers.
"""

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import requests
from PIL import Image, ImageOps

from conftest import DEADLINE, database_in, wait_until
from contract import row_of
from lab.drawings import draw
from lab.launch import Service, free_port, launch, launch_pipeline, stop_all

BEHIND = ("preprocess", "inference", "storage")
ROW = {"json": {"features": row_of(7)}}


class Pipeline:
    """The four services, started once for all tests of this file. Preprocess may also be at a second address."""

    def __init__(self, env: dict[str, str]):
        self.spare = free_port()
        addresses = f"http://127.0.0.1:{free_port()},http://127.0.0.1:{self.spare}"
        self.env = {**env, "PREPROCESS_URL": addresses}
        self.services: dict[str, Service] = launch_pipeline(**self.env)
        self.gateway_url = self.services["gateway"].url

    def post(self, **sent) -> requests.Response:
        return requests.post(self.gateway_url + "/inferir", timeout=10, **sent)

    def get(self, path: str) -> requests.Response:
        return requests.get(self.gateway_url + path, timeout=10)

    def pids(self) -> dict[str, int]:
        return {name: service.process().pid for name, service in self.services.items()}

    @contextmanager
    def load(self, send, clients: int = 4):
        """Let clients send without a pause while the block runs; gives the list that their replies go to."""
        replies, over = [], threading.Event()

        def client():
            with requests.Session() as session:
                while not over.is_set():
                    replies.append(send(session))

        with ThreadPoolExecutor(clients) as pool:
            sending = [pool.submit(client) for _ in range(clients)]
            try:
                yield replies
            finally:
                over.set()
            for client in sending:
                client.result(timeout=30)


@pytest.fixture(scope="module")
def pipeline(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    model = {"MODEL_DIR": str(trained("03_pipeline")), "MODEL_FORMAT": "onnx"}  # starts in a third of the time
    pipeline = Pipeline({**model, "DATABASE_URL": database_in(folder)})
    yield pipeline
    stop_all(*pipeline.services.values())


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


DRAWING = {"data": png(draw(3, np.random.default_rng(1))), "headers": {"Content-Type": "image/png"}}


def test_one_request_is_found_in_all_four_logs_and_in_the_stored_row(pipeline):
    sent = {**DRAWING, "headers": {**DRAWING["headers"], "X-Request-ID": "follow-me"}}
    answer = pipeline.post(**sent).json()
    assert answer["prediction"] == [3] and answer["stored"] is True
    logs = pipeline.services.values()
    wait_until(lambda: all("follow-me" in service.log(1000) for service in logs))
    newest = pipeline.get("/results?limit=1").json()["results"][0]
    assert (newest["id"], newest["request_id"], newest["prediction"]) == (answer["id"], "follow-me", 3)
    assert newest["features"] == answer["features"] and newest["model"] == answer["model"]


QUESTIONS = {
    "a row": lambda pipeline: pipeline.post(**ROW),
    "a picture": lambda pipeline: pipeline.post(**DRAWING),
    "the history": lambda pipeline: pipeline.get("/results?limit=1"),
}
STILL_ANSWERED = {
    "preprocess": ["a row", "the history"],
    "inference": ["the history"],
    "storage": ["a row", "a picture"],
}


@pytest.mark.parametrize("name", BEHIND)
def test_a_service_that_is_killed_takes_only_its_own_work_along(pipeline, name):
    before = pipeline.pids()
    pipeline.services[name].kill()
    try:
        for question, ask in QUESTIONS.items():
            begin = time.monotonic()
            reply = ask(pipeline)
            assert time.monotonic() - begin < DEADLINE + 0.5, question
            if question in STILL_ANSWERED[name]:
                assert reply.status_code == 200, reply.text
                assert reply.json().get("stored", True) is (name != "storage" or question == "the history")
            else:
                assert reply.status_code == 503 and reply.headers["Retry-After"]
                assert reply.json()["error"].startswith(name), reply.text
        health = pipeline.get("/services").json()
        assert [service for service in BEHIND if not health[service]["ready"]] == [name]
        assert pipeline.get("/readyz").status_code == 200  # the gateway itself may get requests
    finally:
        pipeline.services[name].restart()
    wait_until(lambda: pipeline.get("/services").json()[name]["ready"])
    assert pipeline.post(**DRAWING).json()["stored"] is True
    after = pipeline.pids()
    assert [service for service in after if after[service] != before[service]] == [name]


def test_preprocess_is_replaced_under_load_and_nobody_notices(pipeline):
    before = pipeline.pids()
    old = pipeline.services["preprocess"]
    assert pipeline.post(**DRAWING).json()["preprocess"] == "v2"
    with pipeline.load(
        lambda session: session.post(pipeline.gateway_url + "/inferir", timeout=10, **DRAWING)
    ) as replies:
        env = {**pipeline.env, "PREPROCESS_VERSION": "v1"}
        pipeline.services["preprocess"] = launch("03_pipeline/preprocess", env=env, port=pipeline.spare)
        old.stop()
        enough = len(replies) + 20
        wait_until(lambda: len(replies) > enough)
    assert {reply.status_code for reply in replies} == {200}
    assert [reply.json()["preprocess"] for reply in replies[-4:]] == ["v1"] * 4
    after = pipeline.pids()
    assert [service for service in after if after[service] != before[service]] == ["preprocess"]
    # and back again, at the first address
    new = pipeline.services["preprocess"]
    pipeline.services["preprocess"] = launch("03_pipeline/preprocess", env=pipeline.env, port=old.port)
    new.stop()


def to_28(drawing: Image.Image) -> Image.Image:
    """A drawing as the classic sets have it: 28x28, light on dark, the digit in a box of 20x20, anti-aliased."""
    dark = ImageOps.invert(drawing.convert("L"))
    digit = dark.crop(dark.getbbox())
    digit.thumbnail((20, 20), Image.Resampling.BOX)
    picture = Image.new("L", (28, 28))
    picture.paste(digit, ((28 - digit.width) // 2, (28 - digit.height) // 2))
    return picture


def test_drawings_are_recognized_at_any_size_and_either_way_round(pipeline):
    rng = np.random.default_rng(5)
    digits = list(range(10)) * 5
    drawings = [draw(digit, rng) for digit in digits]
    forms = {
        "280x280, dark on light": lambda drawing: drawing,
        "28x28, light on dark": to_28,
        "28x28, dark on light": lambda drawing: ImageOps.invert(to_28(drawing)),
        "28x28 enlarged": lambda drawing: to_28(drawing).resize((280, 280), Image.Resampling.NEAREST),
    }
    for form, change in forms.items():
        with ThreadPoolExecutor(4) as clients:
            sent = [{**DRAWING, "data": png(change(drawing))} for drawing in drawings]
            answers = [reply.json() for reply in clients.map(lambda sent: pipeline.post(**sent), sent)]
        right = np.mean([answer["prediction"] == [digit] for answer, digit in zip(answers, digits, strict=True)])
        assert right >= 0.9, f"{form}: {right}"
