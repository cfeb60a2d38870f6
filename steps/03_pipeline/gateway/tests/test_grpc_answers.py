"""What the gateway sends to inference over gRPC, and what it reads from the answer."""

import struct
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_calls import ROW, asynchronous, calling
from replicas import MODEL, PROBABILITIES, predict

import rest_client
from clients import Unavailable


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
    "no prediction": lambda response: changed(
        response, outputs=[response.outputs[1]], raw_output_contents=[response.raw_output_contents[1]]
    ),
    "an unknown type": lambda response: changed(
        response,
        outputs=[type(response.outputs[0])(name="prediction", datatype="BOOL", shape=[1])],
        raw_output_contents=[bytes(1)],
    ),
    "no model": lambda response: response.parameters.clear() or response,
}


@asynchronous
async def test_the_answers_are_those_of_rest(replica, inference):
    answer = {"prediction": [0, 0], "probabilities": [PROBABILITIES] * 2, "model": MODEL}
    inference.answers["/inferir"] = lambda body: (200, answer)
    rest = rest_client.Inference(inference.url, 1)
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


@pytest.mark.parametrize("how", NONSENSE)
@asynchronous
async def test_an_answer_that_makes_no_sense_is_not_used(replica, how):
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


def test_a_gateway_over_grpc_answers_as_one_over_rest(open_gateway, replica):
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
    assert gateway.get("/services").json()["inference"]["reason"] == "it cannot be reached"


def answer_with(*tensors):
    """An answer whose tensors have these (name, datatype, shape, content)."""

    def answer(request, context):
        response = predict(request, context)
        make = type(response.outputs[0])
        outputs = [make(name=name, datatype=kind, shape=shape) for name, kind, shape, _ in tensors]
        return changed(response, outputs=outputs, raw_output_contents=[content for *_, content in tensors])

    return answer


def text(*words: str) -> bytes:
    return b"".join(struct.pack("<I", len(word.encode())) + word.encode() for word in words)


@asynchronous
async def test_classes_may_be_text_and_a_model_may_have_no_probabilities(replica):
    replica.answer = answer_with(("prediction", "BYTES", [2], text("setosa", "ключ")))
    async with calling(replica.url) as client:
        answers = await client.predict([ROW, ROW], 5)
    assert [(answer.prediction, answer.probabilities) for answer in answers] == [("setosa", None), ("ключ", None)]


@pytest.mark.parametrize(("kind", "letter"), [("FP32", "f"), ("FP64", "d")])
@asynchronous
async def test_a_regressor_answers_with_numbers(replica, kind, letter):
    replica.answer = answer_with(("prediction", kind, [2], struct.pack(f"<2{letter}", 0.5, -2)))
    async with calling(replica.url) as client:
        answers = await client.predict([ROW, ROW], 5)
    assert [(answer.prediction, answer.probabilities) for answer in answers] == [(0.5, None), (-2.0, None)]


@pytest.mark.parametrize(
    "content", [text("a"), text("a", "b", "c"), text("a", "b")[:-1], struct.pack("<I", 2**32 - 1), text("a") + b"\1"]
)
@asynchronous
async def test_texts_that_cannot_be_read_make_no_sense(replica, content):
    replica.answer = answer_with(("prediction", "BYTES", [2], content))
    async with calling(replica.url) as client:
        with pytest.raises(Unavailable, match="makes no sense$"):
            await client.predict([ROW, ROW], 5)
