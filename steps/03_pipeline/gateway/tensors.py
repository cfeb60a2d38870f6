"""The messages of the Open Inference Protocol: rows as a tensor of bytes, predictions read back from tensors.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_grpc.md
"""

import struct
from collections.abc import Sequence
from math import isfinite, prod

import open_inference_pb2 as pb
from clients import Prediction
from contract import NAME
from responses import Label
from schemas import N_FEATURES

ROW = struct.Struct(f"<{N_FEATURES}f")
NUMBERS = {"INT32": "i", "INT64": "q", "FP32": "f", "FP64": "d"}
# What reading a senseless response raises; AttributeError, since grpc returns None for bytes that it cannot read.
UNREADABLE = ValueError, KeyError, ArithmeticError, struct.error, AttributeError


def make_request(rows: list[list[float]]) -> pb.ModelInferRequest:
    """Ask for the predictions of rows of features.

    The features travel as bytes. 16 rows take 17 to 33 microseconds; as numbers of protobuf, they take 24 to 180.
    """
    tensor = pb.ModelInferRequest.InferInputTensor(name="features", datatype="FP32", shape=[len(rows), N_FEATURES])
    content = b"".join([ROW.pack(*row) for row in rows])
    return pb.ModelInferRequest(model_name=NAME, inputs=[tensor], raw_input_contents=[content])


def read_response(response: pb.ModelInferResponse, rows: int) -> list[Prediction]:
    """Return the prediction of each row. Raises one of UNREADABLE if the response has anything else.

    `prediction` has the shape (rows,): INT64, FP32 or FP64 for numbers, BYTES for classes that are text.
    `probabilities` has the shape (rows, classes). A regressor does not send it.
    """
    outputs = {}
    for output, content in zip(response.outputs, response.raw_output_contents, strict=True):
        outputs[output.name] = list(output.shape), read_tensor(output.datatype, prod(output.shape), content)
    shape, predictions = outputs["prediction"]
    if shape != [rows]:
        raise ValueError("one prediction is needed for each row")
    probabilities: list[list[float] | None] = [None] * rows
    if "probabilities" in outputs:
        (count, classes), numbers = outputs["probabilities"]
        if count != rows:
            raise ValueError("probabilities are needed for each row")
        shares = [float(number) for number in numbers]
        probabilities = [shares[start : start + classes] for start in range(0, len(shares), classes)]
    model = {name: response.parameters[name].string_param for name in ("version", "format")}
    if not all(model.values()):
        raise ValueError("the model's version and format are needed")
    return [Prediction(label, own, model) for label, own in zip(predictions, probabilities, strict=True)]


def read_tensor(datatype: str, count: int, content: bytes) -> Sequence[Label]:
    """Return the `count` elements of a tensor. Raises one of UNREADABLE if it has others."""
    if datatype == "BYTES":
        return read_texts(count, content)
    numbers: tuple[int | float, ...] = struct.unpack(f"<{count}{NUMBERS[datatype]}", content)
    if not all(map(isfinite, numbers)):
        raise ValueError("numbers must be finite")
    return numbers


def read_texts(count: int, content: bytes) -> list[str]:
    """Read texts, each after its length in four bytes."""
    texts, start = [], 0
    for _ in range(count):
        (size,) = struct.unpack_from("<I", content, start)
        start += 4 + size
        if start > len(content):
            raise ValueError("a text ends too early")
        texts.append(content[start - size : start].decode())
    if start != len(content):
        raise ValueError("there are more bytes than texts")
    return texts
