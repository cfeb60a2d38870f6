"""Write a service that keeps what it has promised to keep."""

import socket
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from lab.launch import PYTHON, Service, free_port

notebook = "03_pipeline"
minutes = 30
hints = [
    "What is in the memory of a process is gone when it is killed. The result has to be in a file before you answer.",
    "Python's `sqlite3` does it: `sqlite3.connect('results.db')`, and `commit()` before the answer. FastAPI runs a "
    "route that is written with `def` in changing threads, so open a connection in each request, or write `async def`.",
    "Let the database know which ids it has: `id TEXT PRIMARY KEY`, and `INSERT ... ON CONFLICT DO NOTHING`.",
]


def stub():
    """Return the text of storage.py. It is started by `uvicorn storage:app`."""
    return """
from fastapi import FastAPI
app, results = FastAPI(), []

@app.post("/results")
def store(result: dict):
    results.append(result)
    return {"stored": True}
@app.get("/results")
def listed():
    return results
"""


def solution():
    """`stored` is true only after the commit: then the row is in a file, whatever happens to the process.

    The primary key makes it safe to send a result again, after a restart too, and from two gateways at the same moment.
    A set of ids in the memory of the process can do neither. To outlive a power cut as well, the disk must have the row
    before you answer: SQLite's `synchronous = FULL`, which is the default here, waits for that.
    """
    return """
import sqlite3
from fastapi import FastAPI

app = FastAPI()
database = sqlite3.connect("results.db")
database.execute("CREATE TABLE IF NOT EXISTS results (id TEXT PRIMARY KEY, prediction INTEGER)")

@app.post("/results")
async def store(result: dict):
    row = result["id"], result["prediction"]
    database.execute("INSERT INTO results VALUES (?, ?) ON CONFLICT DO NOTHING", row)
    database.commit()
    return {"stored": True}

@app.get("/results")
async def listed():
    rows = database.execute("SELECT id, prediction FROM results")
    return [{"id": id, "prediction": prediction} for id, prediction in rows]
"""


def without_a_commit():
    return solution().replace("    database.commit()\n", "")


def lines_in_a_file():
    return """
import json
import os
from fastapi import FastAPI

app = FastAPI()

@app.post("/results")
def store(result: dict):
    with open("results.jsonl", "a") as file:
        file.write(json.dumps(result) + "\\n")
    return {"stored": True}

@app.get("/results")
def listed():
    if not os.path.exists("results.jsonl"):
        return []
    with open("results.jsonl") as file:
        return [json.loads(line) for line in file]
"""


def ids_in_memory():
    text = lines_in_a_file().replace("app = FastAPI()", "app, ids = FastAPI(), set()")
    known = '    if result["id"] in ids:\n        return {"stored": True}\n    ids.add(result["id"])\n'
    return text.replace("    with open(", known + "    with open(", 1)


def one_connection_for_all_threads():
    return solution().replace("async def", "def")


def a_typing_error():
    return solution().replace("database.commit()", "database.commit(")


wrong = [
    (without_a_commit, "are gone"),
    (lines_in_a_file, "one result twice"),
    (ids_in_memory, "from before its restart"),
    (one_connection_for_all_threads, "answers 500"),
    (a_typing_error, "does not start"),
]


class Storage(Service):
    def ask(self, path):
        """Ask only whether it listens: a route that answers 500 is for the check to find."""
        socket.create_connection(("127.0.0.1", self.port), timeout=5).close()


def check(honest_storage):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "storage.py").write_text(honest_storage(), encoding="utf-8")
        port = free_port()
        command = [PYTHON, "-m", "uvicorn", "storage:app", "--port", str(port)]
        with Storage(command, Path(folder), port, {}) as service:
            try:
                service.wait("", timeout=20)
            except RuntimeError:
                return f"the service does not start; its log says: {last_error(service)}"
            return question(service)


def question(service):
    ids = [f"result {number}" for number in range(20)]
    if sentence := send(service, ids) or send(service, ids[:1]):
        return sentence
    if sentence := compare(service, ids, "it has stored one result twice: {} was sent again."):
        return sentence
    service.kill()
    service.restart("")
    if sentence := compare(service, ids, "there is one result twice: {}.") or send(service, ids[-1:]):
        return sentence
    return compare(service, ids, "it does not know the ids from before its restart: {} again.")


def send(service, ids):
    """Send results from four clients at once. Return what is wrong with an answer."""

    def post(id):
        return requests.post(service.url + "/results", json={"id": id, "prediction": 7}, timeout=5)

    with ThreadPoolExecutor(4) as clients:
        replies = list(clients.map(post, ids))
    for reply in replies:
        if reply.status_code != 200:
            return f"POST /results answers {reply.status_code}; its log says: {last_error(service)}"
        if reply.json() != {"stored": True}:
            return f'POST /results answers {reply.text}, not {{"stored": true}}.'
    return ""


def last_error(service):
    lines = [line for line in service.log(1000).splitlines() if "Error" in line and not line.startswith("INFO")]
    return lines[-1] if lines else "nothing"


def compare(service, sent, twice):
    reply = requests.get(service.url + "/results", timeout=5)
    if reply.status_code != 200:
        return f"GET /results answers {reply.status_code}; its log says: {last_error(service)}"
    found = [result["id"] for result in reply.json()]
    if lost := set(sent) - set(found):
        return f"{len(lost)} of {len(sent)} results that it said are stored are gone."
    doubled = [id for id in sent if found.count(id) > 1]
    return twice.format(doubled[0]) if doubled else ""
