"""An ONNX file that is slow for a reason: services in any language can be tested with it from outside."""

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, checker, helper, numpy_helper

import contract
from model import FEATURE_NAMES

SIZE = 384  # of a matrix that is multiplied again and again, to take time


def make_onnx(rounds: int) -> bytes:
    """A model that predicts the number in the first column, and fails if that is no class.

    If the second column is 0, it answers NaN.
    """
    classes = len(contract.CLASSES)
    floats, whole = TensorProto.FLOAT, TensorProto.INT64
    square = helper.make_tensor_value_info("m", floats, [SIZE, SIZE])
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["again"], ["again_out"]),
            helper.make_node("MatMul", ["m", "eye"], ["m_out"]),
        ],
        "body",
        [helper.make_tensor_value_info("i", whole, []), helper.make_tensor_value_info("again", 9, []), square],
        [
            helper.make_tensor_value_info("again_out", 9, []),
            helper.make_tensor_value_info("m_out", floats, [SIZE, SIZE]),
        ],
    )
    nodes = [
        helper.make_node("Gather", ["X", "zero"], ["first"], axis=1),
        helper.make_node("Gather", ["X", "one"], ["second"], axis=1),
        helper.make_node("Cast", ["first"], ["place"], to=whole),
        helper.make_node("Gather", ["all_classes", "place"], ["label"]),  # fails if there is no such class
        helper.make_node("OneHot", ["label", "classes", "off_on"], ["likely"]),
        # What follows depends on X, so that it is computed in each call.
        helper.make_node("ReduceSum", ["X"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "nothing"], ["sum_0"]),
        helper.make_node("Add", ["eye", "sum_0"], ["m_0"]),
        helper.make_node("Loop", ["rounds", "", "m_0"], ["m_n"], body=body),
        helper.make_node("ReduceSum", ["m_n"], ["total"], keepdims=0),
        helper.make_node("Mul", ["total", "nothing"], ["total_0"]),
        helper.make_node("Div", ["second", "second"], ["one_or_nan"]),
        helper.make_node("Unsqueeze", ["one_or_nan", "axes"], ["column"]),
        helper.make_node("Mul", ["likely", "column"], ["product"]),
        helper.make_node("Add", ["product", "total_0"], ["probabilities"]),
    ]
    constants = {
        "zero": np.array(0),
        "one": np.array(1),
        "classes": np.array(classes),
        "all_classes": np.arange(classes),
        "off_on": np.array([0, 1], np.float32),
        "nothing": np.array(0, np.float32),
        "eye": np.eye(SIZE, dtype=np.float32),
        "rounds": np.array(rounds),
        "axes": np.array([1]),
    }
    graph = helper.make_graph(
        nodes,
        "made_up",
        [helper.make_tensor_value_info("X", floats, [None, len(FEATURE_NAMES)])],
        [
            helper.make_tensor_value_info("label", whole, [None]),
            helper.make_tensor_value_info("probabilities", floats, [None, classes]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(made)
    return made.SerializeToString()


def write_model(folder: Path, seconds: float = 0) -> Path:
    """Write a model that takes at least about `seconds` for a call, and its manifest."""
    content = make_onnx(1)
    if seconds:
        content = make_onnx(max(1, round(20 * seconds / time_of(make_onnx(20)))))
    manifest = {
        "sha256": {"onnx": hashlib.sha256(content).hexdigest()},
        "unsaved": {},
        **dict.fromkeys(("python", "numpy", "scikit_learn"), "none"),
        "feature_names": FEATURE_NAMES,
        "classes": contract.CLASSES,
        "golden": {
            "features": [[1] * len(FEATURE_NAMES)],
            "prediction": [contract.CLASSES[1]],
            "probabilities": [[0, 1] + [0] * (len(contract.CLASSES) - 2)],
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(content)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def time_of(content: bytes) -> float:
    """Seconds of a call: the least of five, since the machine may be busy."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options)
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        session.run(None, {"X": np.ones((1, len(FEATURE_NAMES)), np.float32)})
        seconds.append(time.perf_counter() - begin)
    return min(seconds)
