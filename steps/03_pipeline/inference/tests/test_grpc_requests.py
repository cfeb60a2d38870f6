"""What gRPC refuses: requests that are not valid, other models, unknown methods."""

import pytest
from calls import NAME, ROW, arrays, error_of, id_of, infer_request
from grpc import StatusCode
from process import PYTHON

import contract
import open_inference_pb2 as pb


def with_tensor(**changes) -> pb.ModelInferRequest:
    """A request with these changes in its tensor."""
    request = infer_request()
    for name, value in changes.items():
        if name == "shape":
            request.inputs[0].shape[:] = value
        else:
            setattr(request.inputs[0], name, value)
    return request


def with_both_contents() -> pb.ModelInferRequest:
    request = infer_request(raw=False)
    request.raw_input_contents.extend(infer_request().raw_input_contents)
    return request


def without(field: str) -> pb.ModelInferRequest:
    request = infer_request()
    request.ClearField(field)
    return request


def with_raw(content: bytes) -> pb.ModelInferRequest:
    request = without("raw_input_contents")
    request.raw_input_contents.append(content)
    return request


def with_number(value: float, contents: bool = False) -> pb.ModelInferRequest:
    return infer_request([ROW, [*ROW[1:], value]], raw=not contents)


def with_contents(**numbers) -> pb.ModelInferRequest:
    request = without("raw_input_contents")
    request.inputs[0].contents.MergeFrom(pb.InferTensorContents(**numbers))
    return request


SHAPE = "inputs[0].shape must be [n, 64] with at least one row, not "
ONCE = "send the numbers once: in inputs[0].contents or in raw_input_contents"
MANY_ROWS = "a batch has at most 1,024 rows: send several batches"
OUTPUTS = "outputs: ask for prediction and probabilities, or for none to get all"
MOST = 2**63 - 1


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (without("inputs"), "inputs: send one tensor, with the name features"),
        (infer_request(inputs=[{"name": "features"}]), "inputs: send one tensor, with the name features"),
        (with_tensor(name="pixels"), "inputs: send one tensor, with the name features"),
        (infer_request(inputs=[{}] * 100_000), "inputs: send one tensor, with the name features"),
        (with_tensor(datatype="FP64"), "inputs[0].datatype must be FP32, not 'FP64'"),
        (with_tensor(datatype="BYTES"), "inputs[0].datatype must be FP32, not 'BYTES'"),
        (with_tensor(datatype="\x00" * 100_000), "inputs[0].datatype must be FP32, not '\\x00"),
        (with_tensor(shape=[]), SHAPE + "[]"),
        (with_tensor(shape=[64]), SHAPE + "[64]"),
        (with_tensor(shape=[1, 1, 64]), SHAPE + "[1, 1, 64]"),
        (with_tensor(shape=[1] * 100_000), SHAPE + "[1, 1, 1, 1]"),
        (with_tensor(shape=[1, 63]), SHAPE + "[1, 63]"),
        (with_tensor(shape=[0, 64]), SHAPE + "[0, 64]"),
        (with_tensor(shape=[-1, 64]), SHAPE + "[-1, 64]"),
        (with_tensor(shape=[-1, -64]), SHAPE + "[-1, -64]"),
        (with_tensor(shape=[MOST, MOST]), SHAPE + f"[{MOST}, {MOST}]"),
        (with_tensor(shape=[MOST, 64]), MANY_ROWS),
        (
            with_tensor(shape=[2**58, 64]),
            MANY_ROWS,
        ),  # overflows
        (infer_request([ROW] * 1025), MANY_ROWS),
        (with_tensor(shape=[2, 64]), "raw_input_contents[0] has 256 bytes, and [2, 64] takes 512"),
        (with_raw(b"\0" * 255), "raw_input_contents[0] has 255 bytes, and [1, 64] takes 256"),
        (with_raw(b"\0" * 257), "raw_input_contents[0] has 257 bytes, and [1, 64] takes 256"),
        (with_raw(b""), "raw_input_contents[0] has 0 bytes, and [1, 64] takes 256"),
        (without("raw_input_contents"), ONCE),
        (with_both_contents(), ONCE),
        (infer_request(raw_input_contents=[b""] * 100_000), ONCE),
        (with_contents(), "inputs[0].contents.fp32_contents has 0 numbers, which is not [1, 64]"),
        (with_contents(fp32_contents=[0] * 63), "inputs[0].contents.fp32_contents has 63 numbers"),
        (with_contents(fp32_contents=[0] * 200_000), "inputs[0].contents.fp32_contents has 200,000 numbers"),
        (with_contents(fp64_contents=[0] * 64), "inputs[0].contents.fp32_contents has 0 numbers"),
        (with_contents(bytes_contents=[b"7"] * 64), "inputs[0].contents.fp32_contents has 0 numbers"),
        (with_number(17), "features[1][63] must be a number from 0 to 16, not 17"),
        (with_number(-1), "features[1][63] must be a number from 0 to 16, not -1"),
        (with_number(float("nan")), "features[1][63] must be a number from 0 to 16, not nan"),
        (with_number(float("inf")), "features[1][63] must be a number from 0 to 16, not inf"),
        (with_number(float("-inf")), "features[1][63] must be a number from 0 to 16, not -inf"),
        (with_number(3e38), "features[1][63] must be a number from 0 to 16, not 3e+38"),
        (with_number(float("nan"), contents=True), "features[1][63] must be a number from 0 to 16, not nan"),
        (with_raw(b"\xff" * 256), "features[0][0] must be a number from 0 to 16, not nan"),
        (
            infer_request(outputs=[{"name": "digit"}]),
            OUTPUTS,
        ),
        (infer_request(outputs=[{"name": "prediction"}] * 3), OUTPUTS),
        (infer_request(outputs=[{"name": "prediction"}] * 50_000), OUTPUTS),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)
def test_an_invalid_request_gets_invalid_argument_and_a_sentence(onnx, request_, sentence):
    error = error_of(onnx.stub.ModelInfer, request_)
    assert (error.code(), error.details()[: len(sentence)]) == (StatusCode.INVALID_ARGUMENT, sentence)
    assert len(id_of(error)) == 32


def test_numbers_at_the_limits_of_the_range_are_accepted(onnx):
    edges = [0.0, -0.0, 16.0, 1e-45] * 16
    assert len(arrays(onnx.stub.ModelInfer(infer_request([edges]), timeout=20))["prediction"]) == 1


@pytest.mark.parametrize(
    ("name", "version"), [("", ""), ("letters", "1"), ("Digits", ""), ("d" * 100_000, ""), (contract.NAME, "2")]
)
def test_another_model_is_not_found(onnx, name, version):
    asked = [
        (onnx.stub.ModelInfer, pb.ModelInferRequest(model_name=name, model_version=version)),
        (onnx.stub.ModelReady, pb.ModelReadyRequest(name=name, version=version)),
        (onnx.stub.ModelMetadata, pb.ModelMetadataRequest(name=name, version=version)),
    ]
    for method, request in asked:
        error = error_of(method, request)
        assert error.code() is StatusCode.NOT_FOUND
        assert error.details() == "there is no such model: ask for digits, version 1"
        assert id_of(error)


@pytest.mark.parametrize("method", [f"/{NAME}/ModelTrain", f"/{NAME}/ModelStreamInfer", "/made.up/Method" + "x" * 500])
def test_an_unknown_method_is_unimplemented_and_gets_no_metric_of_its_own(onnx, program, method):
    count = {"name": "grpc_request_duration_seconds_count", "method": "other", "code": "UNIMPLEMENTED"}
    is_python = program is PYTHON
    before = onnx.measured(**count) if is_python else 0
    error = error_of(onnx.channel.unary_unary(method), b"x")
    assert error.code() is StatusCode.UNIMPLEMENTED
    assert method.rpartition("/")[2] not in onnx.rest.get("/metrics").text
    if is_python:  # grpc-js answers by itself, and lets nobody count that
        assert error.details() == "there is no such method"
        assert id_of(error)
        assert onnx.measured(**count) == before + 1
