"""The Python of steps/03_pipeline/inference/open_inference.proto. Make it anew: python tests/stubs.py"""

from pathlib import Path

from grpc_tools import protoc

import copies

PROTO = copies.ROOT / copies.PIPELINE / "inference" / "open_inference.proto"
STUBS = ["open_inference_pb2.py", "open_inference_pb2_grpc.py"]


def generate(folder: Path) -> None:
    """Write into `folder` what the compiler makes of the .proto. RuntimeError if it makes nothing of it."""
    options = [f"--proto_path={PROTO.parent}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    if protoc.main(["protoc", *options, PROTO.name]):
        raise RuntimeError("the compiler says above why")


if __name__ == "__main__":
    generate(PROTO.parent)
    copies.bring_in_line()
