"""Compile steps/03_pipeline/inference/open_inference.proto to Python. After a change of it: python tests/stubs.py"""

from pathlib import Path

from grpc_tools import protoc

import copies

PROTO = copies.ROOT / copies.PIPELINE / "inference" / "open_inference.proto"
STUBS = ["open_inference_pb2.py", "open_inference_pb2.pyi", "open_inference_pb2_grpc.py"]


def generate(folder: Path) -> None:
    """Compile the .proto into `folder`. Raises RuntimeError if the compiler refuses it."""
    options = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main(["protoc", f"--proto_path={PROTO.parent}", *options, PROTO.name]):
        raise RuntimeError("the compiler has refused the .proto: its output above says why")


if __name__ == "__main__":
    generate(PROTO.parent)
    copies.bring_in_line()
