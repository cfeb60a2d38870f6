"""What a folder holds as a copy, so that it stands alone. Bring all copies in line: python tests/copies.py"""

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

FASTAPI, PIPELINE, DOCKER = "steps/02_fastapi", "steps/03_pipeline", "steps/04_docker"
# Most of step 03's inference service is step 02, and what every service is made of goes to the other three as well.
INFERENCE = [
    *("batcher.py", "errors.py", "fast.py", "model.py", "schemas.py", "server.py", "service.py", "strokes.py"),
    *("telemetry.py", "train.py", "v2.py", "requirements.txt", "sample_request.json", "tests/conftest.py"),
    *("tests/test_app.py", "tests/test_batcher.py", "tests/test_model.py", "tests/test_server.py"),
    "tests/test_train.py",
]
CHASSIS = ["errors.py", "fast.py", "server.py", "telemetry.py"]
# what both ends of a call speak
PROTOCOL = ["open_inference.proto", "open_inference_pb2.py", "open_inference_pb2_grpc.py"]

# original: its copies. Edit originals only.
COPIES = {
    "LICENSE": ["steps/01_flask/LICENSE", f"{FASTAPI}/LICENSE", f"{PIPELINE}/LICENSE", f"{DOCKER}/LICENSE"],
    "steps/01_flask/.gitignore": [f"{FASTAPI}/.gitignore"],
    "steps/01_flask/sample_request.json": [f"{FASTAPI}/sample_request.json", f"{PIPELINE}/sample_request.json"],
    "steps/01_flask/strokes.py": [f"{FASTAPI}/strokes.py"],
    "steps/01_flask/train.py": [f"{FASTAPI}/train.py"],
    **{f"{FASTAPI}/{name}": [f"{PIPELINE}/inference/{name}"] for name in INFERENCE},
    **{f"{PIPELINE}/inference/{name}": [f"{PIPELINE}/gateway/{name}"] for name in PROTOCOL},
}
COPIES[f"{FASTAPI}/schemas.py"] += [f"{PIPELINE}/gateway/schemas.py"]
for name in CHASSIS:
    COPIES[f"{FASTAPI}/{name}"] += [f"{PIPELINE}/{service}/{name}" for service in ("gateway", "preprocess", "storage")]
# Containers change no line of what runs in them: what step 03 has in a service's folder, step 04 has, too.
SERVICES = ["gateway", "preprocess", "inference", "storage"]
NOT_COMMITTED = {"model", ".venv", "__pycache__", ".pytest_cache"}
PACKAGED = [f"{PIPELINE}/{name}" for name in ("sample_drawing.png", "sample_request.json", "broker/nats.conf")]
for path in sorted(path for service in SERVICES for path in (ROOT / PIPELINE / service).rglob("*")):
    if path.is_file() and not NOT_COMMITTED & {*path.parts} and ".db" not in path.name:
        PACKAGED.append(path.relative_to(ROOT).as_posix())
for name in PACKAGED:
    COPIES.setdefault(name, []).append(name.replace(PIPELINE, DOCKER))


def differing(root: Path = ROOT, copies: dict[str, list[str]] = COPIES) -> list[tuple[Path, Path]]:
    """Pairs of (original, copy) under `root` whose bytes differ, or whose copy is missing."""
    pairs = [(root / original, root / copy) for original, targets in copies.items() for copy in targets]
    return [(one, two) for one, two in pairs if not two.exists() or one.read_bytes() != two.read_bytes()]


def bring_in_line(root: Path = ROOT, copies: dict[str, list[str]] = COPIES) -> None:
    while pairs := differing(root, copies):  # again, since an original may be a copy itself
        for original, copy in pairs:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(original, copy)
            print(f"{original.relative_to(root)} -> {copy.relative_to(root)}")


if __name__ == "__main__":
    bring_in_line()
