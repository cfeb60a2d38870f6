"""The Open Inference Protocol as an independent client library speaks it."""

import json

import numpy as np
import pytest
import requests
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from contract import DIGITS, break_model, row_of
from lab.launch import free_port, launch

STEP = "02_fastapi"
FORMATS = {"pickle": "sklearn_joblib", "onnx": "onnx_onnxv1"}
URL = "/v2/models/digits/infer"


@pytest.fixture(scope="module", params=FORMATS)
def service(request, trained):
    env = {"MODEL_DIR": str(trained(STEP)), "MODEL_FORMAT": request.param}
    with launch(STEP, env=env) as service:
        service.platform = FORMATS[request.param]
        yield service


@pytest.fixture
def client(service):
    with triton.InferenceServerClient(service.url.removeprefix("http://")) as client:
        yield client


def tensor(rows, datatype: str = "FP32", binary: bool = False) -> triton.InferInput:
    rows = np.asarray(rows, dtype=triton_to_np_dtype(datatype))
    given = triton.InferInput("features", rows.shape, datatype)
    given.set_data_from_numpy(rows, binary_data=binary)
    return given


def test_the_server_is_alive_ready_and_knows_its_model(client, service):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("digits") and client.is_model_ready("digits", "1")
    assert not client.is_model_ready("letters") and not client.is_model_ready("digits", "2")
    assert client.get_server_metadata() == {"name": "inferir", "version": "1", "extensions": []}
    assert client.get_model_metadata("digits") == client.get_model_metadata("digits", "1")
    assert client.get_model_metadata("digits") == {
        "name": "digits",
        "versions": ["1"],
        "platform": service.platform,
        "inputs": [{"name": "features", "shape": [-1, 64], "datatype": "FP32"}],
        "outputs": [
            {"name": "prediction", "shape": [-1], "datatype": "INT64"},
            {"name": "probabilities", "shape": [-1, 10], "datatype": "FP32"},
        ],
    }


@pytest.mark.parametrize("version", ["", "1"])
@pytest.mark.parametrize("rows", [1, 2, 1024])
def test_a_client_gets_the_answers_that_inferir_gives(client, service, rows, version):
    result = client.infer("digits", [tensor(DIGITS[:rows])], model_version=version)
    reply = requests.post(service.url + "/inferir", json={"features": DIGITS[:rows].tolist()}, timeout=10).json()
    assert result.as_numpy("prediction").tolist() == reply["prediction"]
    assert result.as_numpy("probabilities").dtype == np.float32
    assert np.allclose(result.as_numpy("probabilities"), reply["probabilities"], atol=1e-6)


@pytest.mark.parametrize("datatype", ["FP64", "INT32", "UINT8"])
def test_other_numbers_are_numbers_too(client, datatype):
    result = client.infer("digits", [tensor([row_of(3), row_of(8)], datatype)])
    assert result.as_numpy("prediction").tolist() == [3, 8]


def test_a_client_gets_the_outputs_that_it_asks_for_and_its_id_back(client):
    result = client.infer(
        "digits", [tensor([row_of(5)])], outputs=[triton.InferRequestedOutput("prediction")], request_id="abc"
    )
    assert [output["name"] for output in result.get_response()["outputs"]] == ["prediction"]
    assert result.get_response()["id"] == "abc"
    assert result.as_numpy("prediction").tolist() == [5]


@pytest.mark.parametrize("optional", ["outputs", "id", "parameters"])
def test_what_is_optional_may_be_null(service, optional):
    reply = requests.post(service.url + URL, json=one_input() | {optional: None}, timeout=10)
    assert reply.status_code == 200, reply.text
    assert [output["name"] for output in reply.json()["outputs"]] == ["prediction", "probabilities"]


def test_whole_numbers_may_be_written_as_floats(service):
    reply = requests.post(service.url + URL, json=one_input(datatype="INT32"), timeout=10)  # such as 5.0
    assert reply.status_code == 200, reply.text


def test_binary_tensors_are_refused_with_a_hint(client):
    with pytest.raises(InferenceServerException, match="tensors in binary are not taken"):
        client.infer("digits", [tensor([row_of(5)], binary=True)])


def test_no_content_type_is_needed_and_any_is_taken(service):
    body = json.dumps(one_input()).encode()
    for headers in ({}, {"Content-Type": "application/json"}, {"Content-Type": "application/octet-stream"}):
        reply = requests.post(service.url + URL, data=body, headers=headers, timeout=10)
        assert reply.status_code == 200, reply.text
        assert reply.json()["outputs"][0] == {"name": "prediction", "datatype": "INT64", "shape": [1], "data": [7]}


def one_input(**changes) -> dict:
    return {"inputs": [{"name": "features", "shape": [1, 64], "datatype": "FP32", "data": row_of(7), **changes}]}


@pytest.mark.parametrize(
    ("request_", "status", "says"),
    [
        ({}, 400, "inputs: it must be a list of one tensor, named features"),
        ([], 400, "the body: "),
        ({"inputs": []}, 400, "inputs"),
        ({"inputs": one_input()["inputs"] * 2}, 400, "inputs: it must be a list of one tensor, named features"),
        (one_input(name="pixels"), 400, "inputs[0].name: "),
        (one_input(datatype="BYTES"), 400, "inputs[0].datatype: input should be 'FP16', 'FP32'"),
        (one_input(datatype="INT32", data=[0.5] * 64), 400, "inputs[0].data has a fraction, which INT32 cannot hold"),
        (one_input(datatype="UINT8", data=[[0.5] * 64]), 400, "inputs[0].data has a fraction, which UINT8"),
        (one_input(shape=[64]), 400, "inputs[0].shape: it must be [rows, 64]"),
        (one_input(shape=[1, 8, 8]), 400, "inputs[0].shape: it must be [rows, 64]"),
        (one_input(shape=[2, 64]), 400, "inputs[0].data has 64 numbers"),
        (one_input(shape=[0, 64], data=[]), 400, "inputs[0].shape[0]: "),
        (one_input(shape=[-1, 64]), 400, "inputs[0].shape[0]: "),
        (one_input(data=row_of(7)[1:]), 400, "inputs[0].data has 63 numbers"),
        (one_input(data=[[row_of(7)]]), 400, "inputs[0].data"),
        (one_input(data=["7"] * 64), 400, "inputs[0].data[0]: "),
        (one_input(data=[17] * 64), 400, "inputs[0].data[0]: input should be less than or equal to 16"),
        (one_input(data=[None] * 64), 400, "inputs[0].data[0]: "),
        (one_input() | {"outputs": [{"name": "digit"}]}, 400, "outputs[0].name: "),
        (one_input() | {"id": 7}, 400, "id: "),
        (one_input() | {"id": "\ud800"}, 400, "id: "),  # half a character
        (one_input(shape=[1025, 64], data=[0] * 64 * 1025), 413, "a batch has at most 1,024 rows"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_a_request_that_makes_no_sense_gets_an_error_of_the_protocol(service, request_, status, says):
    reply = requests.post(service.url + URL, json=request_, timeout=10)
    assert reply.status_code == status, reply.text
    assert list(reply.json()) == ["error"]
    assert reply.json()["error"].startswith(says)


@pytest.mark.parametrize("path", ["letters", "letters/ready", "digits/versions/2", "digits/versions/2/ready"])
def test_another_model_gets_404(service, path):
    reply = requests.get(f"{service.url}/v2/models/{path}", timeout=10)
    assert (reply.status_code, list(reply.json())) == (404, ["error"])


def test_a_model_unfit_to_serve_is_not_ready_for_this_protocol_either(tmp_path):
    break_model(tmp_path, "missing")
    with launch(STEP, env={"MODEL_DIR": str(tmp_path)}, wait_for="/livez") as service:
        with triton.InferenceServerClient(service.url.removeprefix("http://")) as client:
            assert client.is_server_live()
            assert not client.is_server_ready()
            assert not client.is_model_ready("digits")
            with pytest.raises(InferenceServerException, match=r"\[503\].*manifest\.json cannot be read"):
                client.infer("digits", [tensor([row_of(5)])])


def test_over_grpc_the_client_gets_the_same_answers(trained):
    port, rows = free_port(), [row_of(digit) for digit in range(10)]
    env = {"MODEL_DIR": str(trained("03_pipeline")), "GRPC_PORT": str(port)}
    given = triton_grpc.InferInput("features", [len(rows), 64], "FP32")
    given.set_data_from_numpy(np.asarray(rows, dtype=np.float32))
    with (
        launch("03_pipeline/inference", env=env) as service,
        triton.InferenceServerClient(service.url.removeprefix("http://")) as rest,
        triton_grpc.InferenceServerClient(f"127.0.0.1:{port}") as client,
    ):
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("digits")
        metadata = client.get_model_metadata("digits", as_json=True)
        assert (metadata["name"], metadata["versions"]) == ("digits", ["1"])
        answer = client.infer("digits", [given], request_id="abc", client_timeout=20)
        expected = rest.infer("digits", [tensor(rows)])
        assert answer.get_response().id == "abc"
        for name in ("prediction", "probabilities"):
            assert np.array_equal(answer.as_numpy(name), expected.as_numpy(name))
        with pytest.raises(InferenceServerException, match="there is no such model") as refused:
            client.infer("letters", [given])
        assert refused.value.status() == "StatusCode.NOT_FOUND"
