"""What still works while a service is down, hangs or is cut off, and how soon everything works again."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
import requests

from load import DRAWING, ROW, Load, audit
from stack import Stack, wait_until

DEADLINE, MARGIN = 2, 2  # seconds: the gateway's deadline, and a margin for a busy machine
BACK_SECONDS = 30  # most of it is the start of the slowest service
ROUNDS = 2, 4  # of questions: the gateway knows the fault from the second on; more rounds if a disk is slow

QUESTIONS = {
    "a row": ("POST", "/inferir", {"json": {"features": ROW}}),
    "a picture": ("POST", "/inferir", DRAWING),
    "the history": ("GET", "/results?limit=100", {}),
}
ALL_WELL = "200, queued", "200, queued", "200"
EXPECTED = {  # the answers to the three questions
    "preprocess": ("200, queued", "503", "200"),
    "inference": ("503", "503", "200"),
    "storage": ("200, queued", "200, queued", "503"),
    "broker": ("200, not stored", "200, not stored", "200"),
    "database": ("200, queued", "200, queued", "503"),
    "gateway": ("no answer", "no answer", "no answer"),
}
CUT_OFF = {**EXPECTED, "gateway": ("503", "503", "503")}  # cut off from the services, not from its clients


class Answer(NamedTuple):
    shown: str
    seconds: float
    body: dict


def ask(stack: Stack, question: str) -> Answer:
    method, path, sent = QUESTIONS[question]
    begin = time.monotonic()
    try:
        reply = requests.request(method, stack.url + path, timeout=DEADLINE + 2 * MARGIN, **sent)
    except requests.RequestException:
        return Answer("no answer", 0, {})
    body, shown = reply.json(), str(reply.status_code)
    if "stored" in body:
        shown += f", {body['stored'] or 'not stored'}"
    if reply.status_code == 503:
        assert reply.headers["Retry-After"] and body["error"]
    return Answer(shown, time.monotonic() - begin, body)


def ask_all(stack: Stack) -> list[Answer]:
    with ThreadPoolExecutor() as clients:
        return list(clients.map(lambda question: ask(stack, question), QUESTIONS))


def works(stack: Stack) -> bool:
    """Whether every question gets its usual answer, and the results are in the history."""
    row, picture, history = ask_all(stack)
    if (row.shown, picture.shown, history.shown) != ALL_WELL or stack.unready():
        return False
    listed = ask(stack, "the history").body.get("results", [])
    return {row.body["id"], picture.body["id"]} <= {result["id"] for result in listed}


def begin_again(stack: Stack, service: str) -> None:
    """Start it, and do not wait until it is ready."""
    stack.docker("start", *stack.containers(service))


FAULTS = {  # how it begins, how it ends, and the expected answers
    "down": (Stack.kill, begin_again, EXPECTED),
    "hangs": (Stack.pause, Stack.unpause, EXPECTED),
    "cut off": (Stack.disconnect, Stack.connect, CUT_OFF),
}


class Line(NamedTuple):
    """A line of the table: the answers during a fault, the slowest of them, and the seconds until all works again."""

    service: str
    fault: str
    answers: tuple[str, ...]
    slowest: float
    back: float

    def __str__(self) -> str:
        slowest = f"{self.slowest:.1f} s" if self.slowest else ""
        return f"| {self.service} | {self.fault} | {' | '.join(self.answers)} | {slowest} | {self.back:.1f} s |"


def endure(stack: Stack, service: str, fault: str) -> Line:
    begin, end, expected = FAULTS[fault]
    begin(stack, service)
    shown, slowest, (least, most) = (), 0, ROUNDS
    for number in range(most):
        answers = ask_all(stack)
        shown = tuple(answer.shown for answer in answers)
        slowest = max(slowest, *(answer.seconds for answer in answers))
        if number + 1 >= least and shown == expected[service]:
            break
    ended = time.monotonic()
    end(stack, service)
    wait_until(lambda: works(stack), BACK_SECONDS, pause=0.05)
    return Line(service, fault, shown, slowest, time.monotonic() - ended)


def test_what_works_while_a_service_is_gone(stack, capsys):
    wait_until(lambda: works(stack))
    with Load(stack, clients=2, rate=20) as load:
        table = [endure(stack, service, fault) for service in EXPECTED for fault in FAULTS]
    found = audit(stack, load.answers)
    with capsys.disabled():
        print(f"\n\n| gone | how | {' | '.join(QUESTIONS)} | slowest answer | works again after |")
        print("| --- " * 5 + "| ---: | ---: |", *table, "", found, sep="\n")
    for service, fault, answers, slowest, _ in table:
        assert answers == FAULTS[fault][2][service], (service, fault)
        assert slowest < DEADLINE + MARGIN, (service, fault)
    assert (found.lost, found.doubled) == (0, 0)
    assert found.acknowledged > 0
    assert stack.sql("SELECT count(*) FROM dead_letters") == [["0"]]


def test_the_gateway_finds_services_that_have_swapped_their_addresses(stack):
    services = ["preprocess", "inference", "storage", "broker"]
    before = {service: stack.addresses(service) for service in services}
    stack.docker("kill", *(id for service in services for id in stack.containers(service)))
    for service in sorted(services, key=before.get, reverse=True):
        begin_again(stack, service)
    after = {service: stack.addresses(service) for service in services}
    if after == before:
        pytest.skip("this Docker reserves the addresses of stopped containers")
    wait_until(lambda: works(stack), BACK_SECONDS)
