"""The gateway's calls of inference over gRPC: spread over replicas, repeated where that helps, never too late."""

import asyncio
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import wraps
from time import monotonic

import grpc
import pytest
from grpc import StatusCode
from prometheus_client import REGISTRY
from pydantic import ValidationError
from replicas import MODEL, PROBABILITIES, Names, Process, Replica, predict, refuse

import grpc_client
import rest_client
from chassis.errors import RequestError
from chassis.telemetry import request_id
from clients import Unavailable
from settings import Settings

ROW = [0.5] * 63 + [16]
ADDRESSES = [f"127.0.0.{last}" for last in range(1, 5)]


def asynchronous(test):
    @wraps(test)
    def run(*arguments, **named):
        asyncio.run(test(*arguments, **named))

    return run


@asynccontextmanager
async def calling(*urls: str, target: str | None = None):
    request_id.set("from-outside")
    client = grpc_client.Inference(",".join(urls))
    client.target = target or client.target
    await client.open()
    try:
        yield client
    finally:
        await client.close()


@contextmanager
def running(*hosts: str, port: int = 0, **options):
    """Replicas, those at several hosts all at the same port."""
    with ExitStack() as stack:
        found: list[Replica] = []
        for host in hosts:
            port = found[0].port if found and host != found[0].host else port
            found.append(Replica(host, port, **options))
            stack.callback(found[-1].stop)
        yield found


@pytest.fixture
def replica():
    with running("127.0.0.1") as (one,):
        yield one


@pytest.fixture
def processes():
    """Three replicas in processes of their own."""
    made = [Process() for _ in range(3)]
    try:
        for process in made:
            process.wait()
        yield made
    finally:
        for process in made:
            process.kill()


@pytest.fixture
def names():
    names = Names()
    yield names
    names.stop()


@pytest.fixture
def addresses():
    """Four addresses of this machine. A name stands for addresses; replicas at other ports it cannot tell of."""
    try:
        for address in ADDRESSES:
            with socket.socket() as candidate:
                candidate.bind((address, 0))
    except OSError:
        pytest.skip(f"{address} is no address of this machine")
    return ADDRESSES


async def until(condition, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def until_ready(client, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not (await client.health(1))["ready"]:
            await asyncio.sleep(0.01)


async def until_asked(client, replicas: list[Replica], seconds: float = 10) -> None:
    """Call until each of the replicas has been called. No call may fail."""
    async with asyncio.timeout(seconds):
        while not all(replica.asked for replica in replicas):
            await client.predict([ROW], 5)


async def assert_unreachable(client, until) -> None:
    """Call until something is so, and at least once. Every call has to fail soon."""
    while True:
        begin = monotonic()
        with pytest.raises(Unavailable, match="^inference cannot be reached$"):
            await client.predict([ROW], 5)
        assert monotonic() - begin < 2
        if until():
            return
        await asyncio.sleep(0.01)


@asynchronous
async def test_the_answers_are_those_of_rest(replica, inference):
    answer = {"prediction": [0, 0], "probabilities": [PROBABILITIES] * 2, "model": MODEL}
    inference.answers["/inferir"] = lambda body: (200, answer)
    rest = rest_client.Inference(inference.url)
    async with calling(replica.url) as client:
        await rest.open()
        try:
            answers = await client.predict([ROW, ROW], 5)
            assert answers == await rest.predict([ROW, ROW], 5)
        finally:
            await rest.close()


@asynchronous
async def test_a_call_brings_its_rows_its_id_and_the_time_that_is_left(replica):
    async with calling(replica.url) as client:
        await client.predict([ROW, ROW[::-1]], 3)
    ((request, metadata, seconds),) = replica.asked
    (tensor,), (content,) = request.inputs, request.raw_input_contents
    assert (request.model_name, tensor.name, tensor.datatype, [*tensor.shape]) == (
        "digits",
        "features",
        "FP32",
        [2, 64],
    )
    assert memoryview(content).cast("f").tolist() == ROW + ROW[::-1]
    assert metadata["x-request-id"] == "from-outside"
    assert 2 < seconds < 3.1  # it travels in tenths of a second or less, rounded up


@asynchronous
async def test_a_proxy_to_the_internet_is_left_alone(replica, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with calling(f"grpc://localhost:{replica.port}") as client:
        assert len(await client.predict([ROW], 5)) == 1


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        (StatusCode.INVALID_ARGUMENT, 422, "the reason"),
        (StatusCode.RESOURCE_EXHAUSTED, 503, "inference cannot help: the reason"),
        (StatusCode.NOT_FOUND, 503, "inference cannot help: the reason"),
        (StatusCode.INTERNAL, 503, "inference cannot help: the reason"),
    ],
)
@asynchronous
async def test_what_a_replica_refuses_is_not_repeated(replica, code, status, says):
    replica.answer = refuse(code, "the reason")
    async with calling(replica.url) as client:
        with pytest.raises(RequestError) as refused:
            await client.predict([ROW], 5)
    assert (refused.value.status, refused.value.sentence) == (status, says)
    assert len(replica.asked) == 1


@asynchronous
async def test_a_replica_that_cannot_help_is_asked_three_times_and_says_why(replica):
    replica.answer = refuse(StatusCode.UNAVAILABLE, "manifest.json is gone")
    async with calling(replica.url) as client:
        begin = monotonic()
        with pytest.raises(Unavailable, match="^inference cannot help: manifest.json is gone$"):
            await client.predict([ROW], 5)
        assert 0.03 < monotonic() - begin < 1
    assert [metadata.get("grpc-previous-rpc-attempts") for _, metadata, _ in replica.asked] == [None, "1", "2"]


def become_unfit(replica: Replica) -> None:
    replica.stop()
    replica.fit = False
    replica.answer = replica.metadata = refuse(StatusCode.UNAVAILABLE, "manifest.json is gone")
    replica.start()


@asynchronous
async def test_a_replica_that_is_not_fit_gets_no_calls_while_another_is():
    with running("127.0.0.1", "127.0.0.1") as (fit, unfit):
        become_unfit(unfit)
        async with calling(fit.url, unfit.url) as client:
            for _ in range(10):
                await asyncio.gather(*(client.predict([ROW], 5) for _ in range(10)))
            assert (await client.health(5))["ready"]
    assert (len(fit.asked), len(unfit.asked)) == (100, 0)


@asynchronous
async def test_if_no_replica_is_fit_one_of_them_says_why(replica):
    become_unfit(replica)
    async with calling(replica.url) as client:
        with pytest.raises(Unavailable, match="^inference cannot help: manifest.json is gone$"):
            await client.predict([ROW], 5)
        assert (await client.health(5))["reason"] == "manifest.json is gone"


@asynchronous
async def test_a_call_that_a_leaving_replica_drops_is_repeated(replica):
    replica.own_words, replica.answer = False, refuse(StatusCode.CANCELLED, "Cancelling all calls")
    async with calling(replica.url) as client:
        with pytest.raises(Unavailable, match="^inference cannot be reached$"):
            await client.predict([ROW], 5)
    assert len(replica.asked) == 3


@asynchronous
async def test_a_batch_that_is_larger_than_a_replica_takes_gets_413_which_splits_what_was_shared():
    small = Replica(**{"grpc.max_receive_message_length": 10_000})
    try:
        async with calling(small.url) as client:
            assert len(await client.predict([ROW] * 10, 5)) == 10
            with pytest.raises(RequestError, match="^inference takes no batch as large: ") as refused:
                await client.predict([ROW] * 100, 5)
    finally:
        small.stop()
    assert refused.value.status == 413


@pytest.mark.parametrize("rows", [1, 1024])
@asynchronous
async def test_a_call_of_any_size_is_repeated(replica, rows):
    not_now = refuse(StatusCode.UNAVAILABLE, "not now")
    answers = iter([not_now, not_now, predict])
    replica.answer = lambda request, context: next(answers)(request, context)
    async with calling(replica.url) as client:
        assert len(await client.predict([ROW] * rows, 5)) == rows
    assert len(replica.asked) == 3


def changed(response, **fields):
    """The response with other content in some fields."""
    for field, content in fields.items():
        response.ClearField(field)
        getattr(response, field).extend(content)
    return response


NONSENSE = {
    "nothing": lambda response: type(response)(),
    "no numbers": lambda response: changed(response, raw_output_contents=[]),
    "too few numbers": lambda response: changed(response, raw_output_contents=[bytes(8), bytes(36)]),
    "an answer too many": lambda response: changed(response, raw_output_contents=[bytes(16), bytes(40)]),
    "no number": lambda response: changed(response, raw_output_contents=[bytes(8), b"\xff" * 40]),
    "an endless number": lambda response: changed(response, raw_output_contents=[bytes(8), b"\0\0\x80\x7f" * 10]),
    "no probabilities": lambda response: changed(
        response, outputs=[response.outputs[0]], raw_output_contents=[response.raw_output_contents[0]]
    ),
    "no model": lambda response: response.parameters.clear() or response,
}


@pytest.mark.parametrize("how", NONSENSE)
@asynchronous
async def test_an_answer_that_makes_no_sense_is_none(replica, how):
    replica.answer = lambda request, context: NONSENSE[how](predict(request, context))
    async with calling(replica.url) as client:
        with pytest.raises(Unavailable, match="^inference has given an answer that makes no sense$"):
            await client.predict([ROW], 5)


class Garbage(grpc.GenericRpcHandler):
    def service(self, call):
        if "health" not in call.method:
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"\xff")


@pytest.mark.parametrize("handlers", [[Garbage()], []], ids=["garbage", "no such method"])
@asynchronous
async def test_a_server_of_something_else_makes_no_sense(handlers):
    server = grpc.server(ThreadPoolExecutor(1), handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        async with calling(f"grpc://127.0.0.1:{port}") as client:
            with pytest.raises(Unavailable, match="^inference has given an answer that makes no sense$"):
                await client.predict([ROW], 5)
    finally:
        server.stop(None).wait(5)


@asynchronous
async def test_nobody_works_for_a_caller_who_is_late_or_gone(replica):
    cut = threading.Event()

    def wait(request, context):
        context.add_callback(cut.set)
        cut.wait(10)
        return predict(request, context)

    replica.answer = wait
    async with calling(replica.url) as client:
        begin = monotonic()
        with pytest.raises(Unavailable, match="^inference has not answered in time$"):
            await client.predict([ROW], 0.3)
        assert 0.25 < monotonic() - begin < 1
        assert await asyncio.to_thread(cut.wait, 5)
        cut.clear()
        call = asyncio.create_task(client.predict([ROW], 10))
        await until(lambda: len(replica.asked) == 2)
        call.cancel()
        assert await asyncio.to_thread(cut.wait, 5)
        with pytest.raises(asyncio.CancelledError):
            await call


@asynchronous
async def test_who_is_gone_cannot_be_reached_and_is_found_again_soon(replica):
    async with calling(replica.url) as client:
        await client.predict([ROW], 5)
        replica.stop()
        failed = REGISTRY.get_sample_value("failed_attempts_total", {"service": "inference"}) or 0
        begin = monotonic()
        await assert_unreachable(client, until=lambda: monotonic() - begin > 4.5)  # waits between attempts have grown
        assert REGISTRY.get_sample_value("failed_attempts_total", {"service": "inference"}) > failed
        assert (await client.health(1))["reason"] == "it cannot be reached"
        replica.start()
        await until_ready(client, 1.7)
        assert len(await client.predict([ROW], 5)) == 1


@asynchronous
async def test_who_is_absent_at_the_start_is_found_when_it_is_there(replica):
    replica.stop()
    async with calling(replica.url) as client:
        await assert_unreachable(client, until=lambda: True)
        replica.start()
        await until_ready(client, 2)
        assert len(await client.predict([ROW], 5)) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@asynchronous
async def test_the_health_is_the_models(replica, host):
    url = f"grpc://{host}:{replica.port}"
    async with calling(url) as client:
        health = await client.health(5)
        assert 0 < health.pop("ms") < 5000
        assert health == {"ready": True, "url": url, "reason": None}
        replica.metadata = refuse(StatusCode.UNAVAILABLE, "manifest.json is gone")
        health = await client.health(5)
        assert (health["ready"], health["reason"]) == (False, "manifest.json is gone")
        over = threading.Event()
        replica.metadata = lambda request, context: over.wait(10)
        health = await client.health(0.2)
        assert (health["ready"], health["reason"]) == (False, "it has not answered in time")
        over.set()


async def assert_spread(client, replicas: list[Replica]) -> None:
    """Each replica gets its share of 300 calls."""
    await until_asked(client, replicas)  # when all are connected, they take turns
    for replica in replicas:
        replica.asked.clear()
    for _ in range(30):
        await asyncio.gather(*(client.predict([ROW], 5) for _ in range(10)))
    calls = [len(replica.asked) for replica in replicas]
    assert sum(calls) == 300 and all(0.28 <= number / 300 <= 0.38 for number in calls), calls


@asynchronous
async def test_listed_replicas_take_turns():
    with running("127.0.0.1", "127.0.0.1", "127.0.0.1") as replicas:
        async with calling(*(replica.url for replica in replicas)) as client:
            await assert_spread(client, replicas)


@asynchronous
async def test_replicas_behind_a_name_take_turns(names, addresses):
    with running(*addresses[:3]) as replicas:
        port, names.addresses = replicas[0].port, addresses[:3]
        async with calling(f"grpc://inference.test:{port}", target=names.target(port)) as client:
            await assert_spread(client, replicas)


@asynchronous
async def test_a_new_replica_behind_a_name_is_found_when_a_connection_is_of_age(names, addresses):
    with running(*addresses[:3], **{"grpc.max_connection_age_ms": 1000}) as replicas:
        port, names.addresses = replicas[0].port, addresses[:3]
        async with calling(f"grpc://inference.test:{port}", target=names.target(port)) as client:
            await until_asked(client, replicas)
            with running(addresses[3], port=port) as new:
                names.addresses = addresses
                await until_asked(client, new, 4)


@asynchronous
async def test_a_name_that_nobody_knows_is_asked_for_every_second(names, replica):
    async with calling(f"grpc://inference.test:{replica.port}", target=names.target(replica.port)) as client:
        for _ in range(5):  # the library's waits would be longer each time
            asked, begin = names.asked, monotonic()
            await assert_unreachable(client, until=lambda asked=asked: names.asked > asked)
            assert monotonic() - begin < 2
        names.addresses = ["127.0.0.1"]
        await until_ready(client, 2)
        assert len(await client.predict([ROW], 5)) == 1


async def ask(client, seconds: float = 5) -> str:
    """Return the port of the replica that has answered."""
    (answer,) = await client.predict([ROW], seconds)
    return answer.model["version"]


async def until_all_answer(client, processes: list[Process]) -> None:
    missing = {str(process.port) for process in processes}
    async with asyncio.timeout(10):
        while missing:
            missing.discard(await ask(client))


@asynchronous
async def test_a_killed_replica_costs_no_call_and_takes_part_again_when_it_is_back(processes):
    async with calling(*(process.url for process in processes)) as client:
        await until_all_answer(client, processes)
        over = False

        async def call() -> int:
            calls = 0
            while not over:
                await ask(client)
                calls += 1
            return calls

        callers = [asyncio.create_task(call()) for _ in range(8)]
        processes[0].kill()
        processes[0] = Process(processes[0].port)
        await asyncio.to_thread(processes[0].wait)
        await until_all_answer(client, processes)
        over = True
        assert sum(await asyncio.gather(*callers)) > 100


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no signal suspends a process here")
@asynchronous
async def test_a_suspended_replica_costs_calls_no_more_than_their_deadline_and_is_found_out(processes, monkeypatch):
    monkeypatch.setitem(grpc_client.OPTIONS, "grpc.keepalive_time_ms", 1000)
    async with calling(*(process.url for process in processes)) as client:
        await until_all_answer(client, processes)
        os.kill(processes[0].pid, signal.SIGSTOP)
        outcomes: list[str] = []
        async with asyncio.timeout(10):
            while len(outcomes) < 100 or "late" in outcomes[-100:]:
                begin = monotonic()
                try:
                    outcomes.append(await ask(client, 0.3))
                except Unavailable as unavailable:
                    assert unavailable.sentence == "inference has not answered in time"
                    outcomes.append("late")
                assert monotonic() - begin < 0.8
        assert "late" in outcomes
        os.kill(processes[0].pid, signal.SIGCONT)
        await until_all_answer(client, processes)


def test_a_gateway_over_grpc_answers_as_one_over_rest(open_gateway, replica, storage):
    gateway = open_gateway(inference_url=replica.url, deadline_seconds=5)
    reply = gateway.post("/inferir", json={"features": ROW}, headers={"X-Request-ID": "mine"})
    answer = reply.json()
    assert reply.status_code == 200 and answer["stored"] is True
    assert (answer["prediction"], answer["probabilities"], answer["model"]) == ([0], [PROBABILITIES], MODEL)
    assert replica.asked[0][1]["x-request-id"] == "mine"
    assert gateway.get("/services").json()["inference"]["url"] == replica.url
    assert gateway.get("/readyz").status_code == 200
    replica.stop()
    reply = gateway.post("/inferir", json={"features": ROW})
    assert (reply.status_code, reply.json()) == (503, {"error": "inference cannot be reached"})
    assert reply.headers["Retry-After"] == "1"
    assert gateway.get("/readyz").json() == {"error": "inference is not ready: it cannot be reached"}


@pytest.mark.parametrize(
    ("urls", "target", "calls"),
    [
        ("grpc://127.0.0.1:8012", "ipv4:127.0.0.1:8012", 2),
        ("grpc://10.0.0.1:1, grpc://10.0.0.2:2/", "ipv4:10.0.0.1:1,10.0.0.2:2", 4),
        ("grpc://[::1]:8012,grpc://[fd00::1]:8012", "ipv6:[::1]:8012,[fd00::1]:8012", 4),
        ("GRPC://inference.svc:8012", "dns:///inference.svc:8012", 8),
    ],
)
def test_urls_tell_where_replicas_are(urls, target, calls):
    client = grpc_client.Inference(Settings(inference_url=urls).inference_url)
    assert (client.target, client.calls) == (target, calls)


@pytest.mark.parametrize(
    ("urls", "says"),
    [
        ("grpc://127.0.0.1", "a port is needed"),
        ("grpc://one:8012,grpc://two:8012", "IP addresses"),
        ("grpc://127.0.0.1:8012,grpc://[::1]:8012", "IP addresses"),
        ("http://127.0.0.1:8002,grpc://127.0.0.1:8012", "the same wire"),
    ],
)
def test_urls_that_no_channel_can_serve_are_refused(urls, says):
    with pytest.raises(ValidationError, match=says):
        Settings(inference_url=urls)
