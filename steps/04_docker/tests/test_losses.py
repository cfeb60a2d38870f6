"""Services crash, stop and run out of memory under load: every acknowledged result is stored, once."""

import struct
import time
import uuid
import zlib

from load import ROW, Answer, Load, audit, wait_until_drained, waiting
from stack import Stack, wait_until

SERVICES = ["preprocess", "inference", "storage", "broker", "database", "gateway"]
FULL = "the broker cannot keep it: its queue is full"
MANY = {"json": {"features": [ROW] * 1000}}  # 200 kB to the gateway, ten times as much to the broker


def png(side: int) -> bytes:
    """A picture of a black square on white paper, side x side pixels."""
    quarter = side // 4
    blank, inked = (b"\0" + line for line in (b"\xff" * side, b"\xff" * quarter + bytes(side // 2) + b"\xff" * quarter))
    pixels = zlib.compress(blank * quarter + inked * (side // 2) + blank * quarter)
    parts = (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)), (b"IDAT", pixels), (b"IEND", b"")
    chunks = (struct.pack(">I", len(data)) + kind + data + zlib.crc32(kind + data).to_bytes(4) for kind, data in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


LARGE_PICTURE = {"data": png(4000), "headers": {"Content-Type": "image/png"}}


def assert_nothing_lost(stack: Stack, answers: list[Answer], capsys) -> None:
    found = audit(stack, answers, seconds=120)
    with capsys.disabled():
        print(f"\n{found}")
    assert (found.lost, found.doubled) == (0, 0)
    assert found.acknowledged > 100
    assert stack.sql("SELECT count(*) FROM dead_letters") == [["0"]]


def scale_storage(stack: Stack, replicas: int) -> None:
    stack.compose("up", "--no-build", "--no-deps", "--no-recreate", "--wait", f"--scale=storage={replicas}", "storage")


def test_a_crashed_service_restarts_by_itself_and_two_storages_lose_and_double_nothing(stack, capsys):
    scale_storage(stack, 2)
    before, table = {service: stack.restarts(service) for service in SERVICES}, []
    with Load(stack, rate=60) as load:
        for service in SERVICES:
            load.wait_for(60)
            answered, crashed = len(load.answers), time.monotonic()
            stack.crash(service)
            wait_until(lambda: stack.restarts(service) > before[service], pause=0.02)  # noqa: B023
            stack.wait_until_ready()
            seconds, meanwhile = time.monotonic() - crashed, load.answers[answered:]
            failed = sum(answer.status != 200 for answer in meanwhile)
            not_stored = sum(answer.body.get("stored") is False for answer in meanwhile)
            table.append(f"| {service} | {len(meanwhile)} | {failed} | {not_stored} | {seconds:.1f} |")
        load.wait_for(60)
    assert {service: stack.restarts(service) - before[service] for service in SERVICES} == {
        service: 1 + (service == "storage") for service in SERVICES
    }
    with capsys.disabled():
        print("\n\n| what crashes | requests until all works again | failed | not stored | seconds |")
        print("| --- " + "| ---: " * 4 + "|", *table, sep="\n")
    assert_nothing_lost(stack, load.answers, capsys)
    scale_storage(stack, 1)


def test_services_that_hit_their_memory_limits_are_started_again_and_nothing_is_lost(stack, capsys):
    limited = [service for service in SERVICES if service != "database"]  # PostgreSQL starts its processes itself
    usual = {service: stack.inspect(stack.containers(service)[0])["HostConfig"]["Memory"] >> 20 for service in limited}
    before = {service: stack.restarts(service) for service in limited}
    with Load(stack, clients=2, rate=20) as rows:
        rows.wait_for(20)
        for service in limited:
            limit(stack, service)
        with Load(stack, rate=5, **MANY) as batches, Load(stack, clients=3, **LARGE_PICTURE) as pictures:
            while limited:
                wait_until(lambda: any(stack.restarts(service) > before[service] for service in limited), 60)
                for service in [service for service in limited if stack.restarts(service) > before[service]]:
                    stack.limit_memory(service, usual[service])
                    limited.remove(service)
            stack.wait_until_ready()
        wait_until(lambda: sum(bool(answer.body.get("stored")) for answer in rows.answers) > 100, 60)
    assert_nothing_lost(stack, rows.answers + batches.answers + pictures.answers, capsys)


def limit(stack: Stack, service: str) -> None:
    """Set a limit just above the memory that it uses. Some machines refuse a limit that is too close."""
    for megabytes in range(stack.memory(service) + 8, 256, 4):
        try:
            return stack.limit_memory(service, megabytes)
        except RuntimeError:
            pass
    raise AssertionError(f"no limit was accepted for {service}")


def test_the_whole_stack_stops_and_starts_and_its_volumes_keep_everything(stack, capsys):
    def ask(body):
        reply = stack.post(json=body, headers={"Idempotency-Key": key})
        return reply.status_code, reply.json().get("id")

    key, one, other = uuid.uuid4().hex, {"features": ROW}, {"features": ROW[::-1]}
    first = ask(one)
    password = stack.run_in("storage", "cat", "/run/secrets/database_password")
    with Load(stack, clients=4, rate=50) as load:
        load.wait_for(50)
        stack.kill("storage")  # so that messages wait while everything is down
        load.wait_for(50)
        stack.compose("down")
        stack.compose("up", "--no-build", "--wait")
        load.wait_for(50)
        stack.compose("restart")
        stack.wait_until_ready()
        load.wait_for(50)
        everything = [id for service in SERVICES for id in stack.containers(service)]
        stack.docker("kill", *everything)  # as a power cut would
        stack.docker("start", *everything)
        stack.wait_until_ready()
        load.wait_for(50)
    assert_nothing_lost(stack, load.answers, capsys)
    assert ask(one) == first and first[0] == 200
    assert ask(other)[0] == 422
    wait_until_drained(stack)
    assert stack.sql(f"SELECT count(*) FROM results WHERE id = '{first[1]}'") == [["1"]]
    assert stack.run_in("storage", "cat", "/run/secrets/database_password") == password


def test_a_full_queue_refuses_new_results_and_loses_none_of_the_old_ones(stack, capsys):
    def refused(load: Load) -> int:
        told = [(answer.status, answer.body.get("stored"), answer.body.get("storage")) for answer in load.answers]
        return told.count((200, False, FULL))

    stack.settings["MAX_QUEUE_BYTES"] = "5000000"
    stack.compose("up", "--no-build", "--no-deps", "--wait", "storage")  # with that setting
    stack.kill("storage")
    with Load(stack, clients=2, **MANY) as batches:
        wait_until(lambda: refused(batches) > 0)
    with Load(stack, clients=4) as rows:  # they are smaller: some may still fit
        wait_until(lambda: refused(rows) > 50)
    assert waiting(stack) > 0
    del stack.settings["MAX_QUEUE_BYTES"]
    stack.compose("up", "--no-build", "--no-deps", "--wait", "storage")
    stack.wait_until_ready()
    with Load(stack, clients=4) as more:
        wait_until(lambda: sum(answer.body.get("stored") == "queued" for answer in more.answers) > 100)
    assert not refused(more)
    assert_nothing_lost(stack, batches.answers + rows.answers + more.answers, capsys)
