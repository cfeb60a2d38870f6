"""Files that exist in several folders, so that each folder can be copied out. python tests/copies.py updates them."""

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

FASTAPI, PIPELINE, DOCKER = "steps/02_fastapi", "steps/03_pipeline", "steps/04_docker"
SERVICES = ["gateway", "preprocess", "inference", "storage"]
# what every service has in common
CHASSIS = ["chassis/__init__.py", "chassis/errors.py", "chassis/limits.py", "chassis/server.py", "chassis/telemetry.py"]
# Most of the pipeline's inference service is step 02.
INFERENCE = [
    *("batcher.py", "fast.py", "formats.py", "model.py", "schemas.py", "service.py", "v2.py"),
    *("requirements.txt", "sample_request.json"),
]
# what both ends of a gRPC call speak
PROTO = "open_inference.proto"
PROTOCOL = [PROTO, *(f"open_inference_{end}" for end in ("pb2.py", "pb2.pyi", "pb2_grpc.py"))]

# original: its copies. Edit originals only.
COPIES = {
    "LICENSE": ["steps/01_flask/LICENSE", f"{FASTAPI}/LICENSE", f"{PIPELINE}/LICENSE", f"{DOCKER}/LICENSE"],
    "steps/01_flask/.gitignore": [f"{FASTAPI}/.gitignore"],
    "steps/01_flask/sample_request.json": [f"{FASTAPI}/sample_request.json", f"{PIPELINE}/sample_request.json"],
    "steps/01_flask/contract.py": [
        f"{folder}/contract.py" for folder in (FASTAPI, f"{PIPELINE}/inference", f"{PIPELINE}/gateway")
    ],
    "steps/01_flask/strokes.py": [f"{FASTAPI}/strokes.py", f"{PIPELINE}/inference/strokes.py"],
    "steps/01_flask/train.py": [f"{FASTAPI}/train.py", f"{PIPELINE}/inference/train.py"],
    **{f"{FASTAPI}/{name}": [f"{PIPELINE}/inference/{name}"] for name in INFERENCE},
    **{f"{FASTAPI}/{name}": [f"{PIPELINE}/{service}/{name}" for service in SERVICES] for name in CHASSIS},
    **{f"{PIPELINE}/inference/{name}": [f"{PIPELINE}/gateway/{name}"] for name in PROTOCOL},
}
# Inference once more, in TypeScript. Tests of both start it.
COPIES[f"{PIPELINE}/inference/{PROTO}"].append(f"{PIPELINE}/inference_ts/{PROTO}")
COPIES[f"{PIPELINE}/inference_ts/tests/typescript.py"] = [f"{PIPELINE}/inference/tests/typescript.py"]
# The gateway checks requests as step 02 does.
for name in ("fast.py", "schemas.py"):
    COPIES[f"{FASTAPI}/{name}"].append(f"{PIPELINE}/gateway/{name}")


def differing(root: Path = ROOT, copies: dict[str, list[str]] = COPIES) -> list[tuple[Path, Path]]:
    """Pairs of (original, copy) under `root` whose bytes differ, or whose copy is missing."""
    pairs = [(root / original, root / copy) for original, targets in copies.items() for copy in targets]
    return [(one, two) for one, two in pairs if not two.exists() or one.read_bytes() != two.read_bytes()]


def bring_in_line(root: Path = ROOT, copies: dict[str, list[str]] = COPIES) -> None:
    for original, copy in differing(root, copies):
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(original, copy)
        print(f"{original.relative_to(root)} -> {copy.relative_to(root)}")


if __name__ == "__main__":
    bring_in_line()
