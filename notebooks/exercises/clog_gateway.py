"""Break a gateway that sets no timeout."""

import contextlib
import socket
import tempfile
import threading
from pathlib import Path

import requests

from lab.launch import launch

notebook = "03_pipeline"
minutes = 15
hints = [
    "FastAPI runs a route that is written with `def` in a thread, and it has a limited number of them. `/hello` needs "
    "one, too.",
    "There are 40 threads. A thread that waits for inference goes on waiting when its client has given up.",
    "So you need more than 40 requests that get as far as inference, and no answer. Send them at the same time, from "
    "`threading.Thread`s, each with a timeout, and ignore `requests.Timeout`.",
]


def stub(url):
    """Send requests to the gateway at `url` until it can no longer answer GET /hello."""
    requests.post(url + "/inferir", json={"features": [0] * 64}, timeout=1)


def solution(url):
    """The gateway has 40 threads, and each request takes one until inference answers, which it never does.

    The clients give up after a second, and that does not help the gateway: nothing tells its threads that nobody waits
    any more. So a service that hangs takes the service before it along. A timeout on the call in the gateway would give
    the threads back.
    """
    import contextlib
    import threading

    def ask():
        with contextlib.suppress(requests.Timeout):
            requests.post(url + "/inferir", json={"features": [0] * 64}, timeout=1)

    clients = [threading.Thread(target=ask) for _ in range(60)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()


def too_few(url):
    for _ in range(8):
        with contextlib.suppress(requests.Timeout):
            requests.post(url + "/inferir", json={"features": [0] * 64}, timeout=0.3)


def not_a_question(url):
    for _ in range(100):
        requests.post(url + "/inferir", data="break, please", timeout=1)


def too_patient(url):
    for _ in range(60):
        requests.post(url + "/inferir", json={"features": [0] * 64})


wrong = [
    (too_few, "still answers"),
    (not_a_question, "reached inference"),
    (too_patient, "does not return"),
]

GATEWAY = """
import os
import requests
import uvicorn
from fastapi import FastAPI

app = FastAPI()

@app.post("/inferir")
def inferir(body: dict):
    return requests.post(os.environ["INFERENCE_URL"] + "/inferir", json=body).json()

@app.get("/hello")
def hello():
    return "hello"

uvicorn.run(app, port=int(os.environ["PORT"]))
"""


def check(clog_gateway):
    # Inference hangs: the system accepts connections at this port, and no program reads from them.
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0), backlog=200) as inference:
        Path(folder, "gateway.py").write_text(GATEWAY)
        url = {"INFERENCE_URL": f"http://127.0.0.1:{inference.getsockname()[1]}"}
        with launch(folder, ["gateway.py"], env=url, wait_for="/hello") as gateway:
            try:
                return attack(clog_gateway, gateway.url, inference)
            finally:
                gateway.kill()  # its threads never end, so it would not stop when asked to


def attack(clog_gateway, url, inference):
    raised = []

    def run():
        try:
            clog_gateway(url)
        except requests.Timeout:
            pass  # the gateway does not answer: that is the idea
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(4)
    if thread.is_alive():
        return "your function does not return within three seconds: a request without an answer needs a timeout."
    if raised:
        raise raised[0]
    try:
        requests.get(url + "/hello", timeout=1)
    except requests.Timeout:
        return ""
    if waiting := count(inference):
        return f"it still answers: {waiting} of its threads wait for inference, and it has more of them."
    return "none of your requests has reached inference: the gateway answers a body that is not a JSON object itself."


def count(server):
    """Return how many connections wait to be accepted."""
    server.setblocking(False)
    accepted = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            server.accept()[0].close()
            accepted += 1
    return accepted
