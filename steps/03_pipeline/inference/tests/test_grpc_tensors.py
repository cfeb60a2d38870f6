"""The tensors of other models: text classes, a regressor, features without a range."""

import numpy as np
import pytest
from calls import infer_request, row_of

import grpc_tensors
import model
import open_inference_pb2 as pb
from chassis.errors import RequestError


def written(name: str, array: np.ndarray) -> tuple[str, list[int], bytes]:
    response = pb.ModelInferResponse()
    grpc_tensors.add_output(response, name, array)
    return response.outputs[0].datatype, list(response.outputs[0].shape), response.raw_output_contents[0]


def test_texts_are_bytes_after_their_lengths(monkeypatch):
    monkeypatch.setattr(grpc_tensors, "DATATYPE", "BYTES")
    texts = np.array(["a", "zwölf"])
    assert written("prediction", texts) == ("BYTES", [2], b"\1\0\0\0a" + b"\6\0\0\0" + "zwölf".encode())


def test_a_regressor_gives_fp64_and_no_probabilities(monkeypatch):
    monkeypatch.setattr(grpc_tensors, "DATATYPE", "FP64")
    numbers = np.array([0.5, -2], np.float32)
    assert written("prediction", numbers) == ("FP64", [2], np.array([0.5, -2], "<f8").tobytes())
    regressor = model.Model(lambda rows: rows[:, 0], None, "", "pickle", has_probabilities=False)
    assert grpc_tensors.describe_outputs(regressor) == [{"name": "prediction", "datatype": "FP64", "shape": [-1]}]
    assert grpc_tensors.choose_outputs(infer_request(), regressor) == {"prediction"}
    with pytest.raises(RequestError, match="^outputs: ask for prediction, or for none to get all$"):
        grpc_tensors.choose_outputs(infer_request(outputs=[{"name": "probabilities"}]), regressor)


@pytest.mark.parametrize("bound", ["LOW", "HIGH"])
def test_without_a_bound_every_finite_number_is_accepted(monkeypatch, bound):
    monkeypatch.setattr(grpc_tensors, bound, None)
    extreme = -3e38 if bound == "LOW" else 3e38
    assert grpc_tensors.read_rows(infer_request(row_of(extreme))).min() == np.float32(extreme)
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(RequestError, match=r"^features\[0\]\[0\] must be "):
            grpc_tensors.read_rows(infer_request(row_of(value)))
