"""run.py with the services themselves, over REST and over gRPC and a broker."""

import http.client
import json
import threading
from contextlib import suppress

from ports import port_of
from runs import STEP, eventually

BOTH = ("--wires", "grpc,nats")


def test_the_pipeline_predicts_and_stores(real):
    assert eventually(lambda: real.predict()["stored"])
    status, page = real.ask("GET", "/results")
    assert status == 200 and page["results"][0]["prediction"] == 3


def test_when_a_service_is_killed_the_others_go_on_and_only_brings_it_back(real, start_run):
    real.kill("storage")
    real.wait_for("^storage .*ended .*: start it again with `python run.py --only storage`$")
    assert not real.predict()["stored"]

    again = start_run(STEP, ("--only", "storage"), real.settings)
    again.wait_for("^Ready: storage$")
    assert eventually(lambda: real.predict()["stored"])
    assert {line.split()[0] for line in again.lines} == {"storage", "Ready:"}
    again.interrupt()
    assert again.end() == 0 and again.is_gone()
    assert not real.predict()["stored"]


def test_after_an_interrupt_nothing_is_left(real):
    real.interrupt()
    assert real.end() == 0
    assert real.is_gone()
    assert "Traceback" not in real.text


def test_over_grpc_and_a_broker_a_row_is_queued_and_soon_listed(wired):
    bodies = []
    assert eventually(lambda: bodies.append(wired.predict()) or bodies[-1]["stored"] == "queued"), bodies[-1]

    def is_listed() -> bool:
        status, page = wired.ask("GET", "/results")
        return status == 200 and bodies[-1]["id"] in [result["id"] for result in page["results"]]

    assert eventually(is_listed)


def test_an_interrupt_under_load_costs_no_answer_and_what_is_queued_is_stored_later(wired, start_run):
    wired.kill("storage")
    wired.wait_for("^storage .*ended .*: start it again with `python run.py --wires grpc,nats --only storage`$")
    answers = []

    def ask_until_refused() -> None:
        with suppress(OSError):
            while True:
                answers.append(wired.ask())

    client = threading.Thread(target=ask_until_refused)
    client.start()
    enough = eventually(lambda: len(answers) > 5)
    wired.interrupt()
    assert wired.end() == 0 and wired.is_gone()
    client.join(20)
    assert enough and {(status, body.get("stored")) for status, body in answers} == {(200, "queued")}
    assert "Traceback" not in wired.text

    again = start_run(STEP, (*BOTH, "--only", "broker", "storage"), wired.settings)
    again.wait_for("^Ready: storage, broker$")
    queued = {body["id"] for _, body in answers}
    port = port_of(wired.settings["STORAGE_HTTP_URL"])
    assert eventually(lambda: queued <= {result["id"] for result in list_all(port)})
    again.interrupt()
    assert again.end() == 0 and again.is_gone()


def list_all(port: int) -> list[dict]:
    """All results, asked of storage itself."""
    results, before = [], ""
    while before is not None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", f"/results?limit=100{before}")
        page = json.loads(connection.getresponse().read())
        connection.close()
        results += page["results"]
        before = f"&before={page['next']}" if page["next"] else None
    return results
