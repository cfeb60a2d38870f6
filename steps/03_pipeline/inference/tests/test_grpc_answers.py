"""What gRPC answers: the same as REST, in each language."""

import numpy as np
import pytest
from calls import NAME, ROW, SERVING, arrays, infer_request
from grpc_health.v1.health_pb2 import HealthCheckRequest

import contract
import open_inference_pb2 as pb
from schemas import N_FEATURES


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "contents"])
@pytest.mark.parametrize("rows", [1, 3, 1024])
def test_both_kinds_of_contents_get_the_answers_of_rest(served, rows, raw):
    features = np.resize(ROW, (rows, N_FEATURES)).tolist()
    features[-1] = features[-1][::-1]
    expected = served.rest.post("/inferir", json={"features": features}).json()
    response = served.stub.ModelInfer(infer_request(features, raw, id="mine", model_version="1"), timeout=20)
    assert arrays(response)["prediction"] == expected["prediction"]
    assert np.array_equal(arrays(response)["probabilities"], np.float32(expected["probabilities"]))
    assert (response.model_name, response.model_version, response.id) == (contract.NAME, "1", "mine")
    assert {key: value.string_param for key, value in response.parameters.items()} == expected["model"]
    assert [(one.name, one.datatype, one.shape) for one in response.outputs] == [
        ("prediction", "INT64", [rows]),
        ("probabilities", "FP32", [rows, len(contract.CLASSES)]),
    ]


@pytest.mark.parametrize("names", [["prediction"], ["probabilities"], ["probabilities", "prediction"]], ids=str)
def test_a_client_gets_the_outputs_that_it_asks_for(onnx, names):
    outputs = [{"name": name} for name in names]
    assert sorted(arrays(onnx.stub.ModelInfer(infer_request(outputs=outputs), timeout=20))) == sorted(names)


def test_the_metadata_is_the_same_as_over_rest(served):
    assert served.stub.ServerLive(pb.ServerLiveRequest(), timeout=20).live
    assert served.stub.ServerReady(pb.ServerReadyRequest(), timeout=20).ready
    server = served.stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=20)
    assert {"name": server.name, "version": server.version, "extensions": []} == served.rest.get("/v2").json()
    for version in ("", "1"):
        assert served.stub.ModelReady(pb.ModelReadyRequest(name=contract.NAME, version=version), timeout=20).ready
        found = served.stub.ModelMetadata(pb.ModelMetadataRequest(name=contract.NAME, version=version), timeout=20)
        tensors = {
            kind: [{"name": one.name, "shape": one.shape, "datatype": one.datatype} for one in getattr(found, kind)]
            for kind in ("inputs", "outputs")
        }
        described = {"name": found.name, "versions": found.versions, "platform": found.platform, **tensors}
        assert described == served.rest.get(f"/v2/models/{contract.NAME}").json()


@pytest.mark.parametrize("name", ["", NAME])
def test_the_health_service_says_serving(onnx, name):
    assert onnx.health.Check(HealthCheckRequest(service=name), timeout=20).status == SERVING
