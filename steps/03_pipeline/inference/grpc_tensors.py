"""Tensors in gRPC messages: read the features of a request, describe and write the outputs of the model."""

from typing import TypedDict

import numpy as np

import open_inference_pb2 as pb
from chassis.errors import RequestError
from contract import CLASSES, HIGH, LOW
from model import Model
from schemas import MAX_ROWS, N_FEATURES, NUMBER, SENTENCES
from v2 import DATATYPE

TYPES = {"INT64": "<i8", "FP32": "<f4", "FP64": "<f8"}  # as NumPy names them


class Tensor(TypedDict):
    name: str
    datatype: str
    shape: list[int]  # -1: any number


def read_rows(request: pb.ModelInferRequest) -> np.ndarray:
    """Return the features, float32 of shape (n, N_FEATURES). Raises RequestError (400) if something is wrong."""
    if [tensor.name for tensor in request.inputs[:2]] != ["features"]:
        raise RequestError(400, "inputs: send one tensor, with the name features")
    (tensor,), raw = request.inputs, request.raw_input_contents
    shape = tensor.shape[:4]
    if tensor.datatype != "FP32":
        raise RequestError(400, f"inputs[0].datatype must be FP32, not {tensor.datatype[:20]!r}")
    if len(tensor.shape) != 2 or shape[0] < 1 or shape[1] != N_FEATURES:
        raise RequestError(400, f"inputs[0].shape must be [n, {N_FEATURES}] with at least one row, not {shape}")
    if shape[0] > MAX_ROWS:
        raise RequestError(400, SENTENCES[413])
    if len(raw) + tensor.HasField("contents") != 1:
        raise RequestError(400, "send the numbers once: in inputs[0].contents or in raw_input_contents")

    size, numbers = shape[0] * N_FEATURES, tensor.contents.fp32_contents
    if raw and len(raw[0]) != 4 * size:
        raise RequestError(400, f"raw_input_contents[0] has {len(raw[0]):,} bytes, and {shape} takes {4 * size:,}")
    if not raw and len(numbers) != size:
        raise RequestError(400, f"inputs[0].contents.fp32_contents has {len(numbers):,} numbers, which is not {shape}")
    flat = np.frombuffer(raw[0], "<f4") if raw else np.array(numbers, np.float32)
    valid = np.isfinite(flat)
    if LOW is not None:
        valid &= flat >= LOW
    if HIGH is not None:
        valid &= flat <= HIGH
    if not valid.all():
        place = int(valid.argmin())
        row, column = divmod(place, N_FEATURES)
        raise RequestError(400, f"features[{row}][{column}] must be {NUMBER}, not {flat[place]:g}")
    return flat.reshape(-1, N_FEATURES)


def describe_outputs(model: Model) -> list[Tensor]:
    outputs: list[Tensor] = [{"name": "prediction", "datatype": DATATYPE, "shape": [-1]}]
    if model.has_probabilities:
        outputs.append({"name": "probabilities", "datatype": "FP32", "shape": [-1, len(CLASSES or [])]})
    return outputs


def choose_outputs(request: pb.ModelInferRequest, model: Model) -> set[str]:
    """Return the names of the outputs that the client wants, all if it names none. Raises RequestError (400)."""
    outputs = [output["name"] for output in describe_outputs(model)]
    wanted = {output.name for output in request.outputs[: len(outputs) + 1]}
    if len(request.outputs) > len(outputs) or not wanted <= {*outputs}:
        raise RequestError(400, f"outputs: ask for {' and '.join(outputs)}, or for none to get all")
    return wanted or {*outputs}


def add_output(response: pb.ModelInferResponse, name: str, array: np.ndarray) -> None:
    """Add an array: numbers little-endian, a text after its length in four bytes."""
    datatype = DATATYPE if name == "prediction" else "FP32"
    response.outputs.add(name=name, datatype=datatype, shape=array.shape)
    if datatype == "BYTES":
        texts = [str(text).encode() for text in array]
        response.raw_output_contents.append(b"".join(len(text).to_bytes(4, "little") + text for text in texts))
    else:
        response.raw_output_contents.append(array.astype(TYPES[datatype]).tobytes())
