"""What is measured: the variants of the service, and the models that they serve."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent.parent / "notebooks"))
from lab.launch import PYTHON, STEPS, Service, free_port  # noqa: E402

FLASK, FASTAPI = "01_flask", "02_fastapi"
BASE, TEXTBOOK, CONSTANT = "01 development server", "FastAPI as in tutorials", "constant JSON"
PICKLE, ONNX, NO_BATCHING = "02 pickle", "02 ONNX", ", no batching"
PLAIN = "plain FastAPI with the batcher"  # step 02 as it is when the line of FastPath is deleted
WAITRESS = ["-m", "waitress", "--listen=127.0.0.1:{port}", "--threads=4", "--call", "app:create_app"]
WITHOUT_FAST_PATH = """
import app
app.FastPath = lambda app: app
from chassis import telemetry
from chassis.server import Config, Server
from settings import read_settings
settings = read_settings()
options = dict(http="httptools", access_log=False, log_config=telemetry.LOGGING, server_header=False)
Server(Config(app.create_app(settings), drain_seconds=0, host=settings.host, port=settings.port, **options)).run()
"""
VARIANTS = {  # name: the step, what Python runs in its folder, settings
    BASE: (FLASK, ["app.py"], {}),
    "01 waitress": (FLASK, WAITRESS, {}),
    TEXTBOOK: (FASTAPI, [f"{HERE}/textbook.py"], {}),
    PLAIN: (FASTAPI, ["-c", WITHOUT_FAST_PATH], {"MODEL_FORMAT": "pickle"}),
    PICKLE + NO_BATCHING: (FASTAPI, ["app.py"], {"MODEL_FORMAT": "pickle", "MAX_BATCH": "1"}),
    PICKLE: (FASTAPI, ["app.py"], {"MODEL_FORMAT": "pickle"}),
    ONNX + NO_BATCHING: (FASTAPI, ["app.py"], {"MODEL_FORMAT": "onnx", "MAX_BATCH": "1"}),
    ONNX: (FASTAPI, ["app.py"], {"MODEL_FORMAT": "onnx"}),
    CONSTANT: (FASTAPI, [f"{HERE}/constant.py"], {}),
}
BATCHING = [PICKLE, ONNX]  # step 02 as it is
SHIPPED, FOREST = "shipped", "forest"
FIT_FOREST = """
import train
from sklearn.ensemble import RandomForestClassifier
train.COPIES, train.DRAWN, train.train = 0, 0, RandomForestClassifier(100, n_jobs=-1, random_state=0).fit
train.main()
"""
MODELS = {SHIPPED: ["train.py"], FOREST: ["-c", FIT_FOREST]}  # name: what Python runs in a step's folder to make it
SAMPLE = STEPS / FASTAPI / "sample_request.json"


def train_models(folder: Path) -> None:
    """Write every model into folder/<model>/<step>, in the form that the step saves and loads."""
    for model, step in product(MODELS, (FLASK, FASTAPI)):
        print(f"{model} model for {step}", file=sys.stderr)
        subprocess.run(
            [PYTHON, *MODELS[model]],
            cwd=STEPS / step,
            env={**os.environ, "MODEL_DIR": str(folder / model / step)},
            stdout=sys.stderr,
            check=True,
            timeout=300,
        )


def start(core: int, models: Path, step: str, command: list[str], settings: dict[str, str]) -> Service:
    """Run a service on one core, with its step's model of those in folder `models`; return when it answers."""
    port = free_port()
    # What it logs is written, but not read: reading would take time from the core that asks.
    pinned = ["sh", "-c", 'exec taskset -c "$0" "$@" > /dev/null 2>&1', str(core), PYTHON]
    command = [*pinned, *(part.format(port=port) for part in command)]
    env = {"MODEL_DIR": str(models / step), "PYTHONPATH": str(STEPS / step), **settings}
    service = Service(command, STEPS / step, port, env)
    try:
        service.wait("/livez", timeout=60)
    except BaseException:  # an interrupt too
        service.stop()
        raise
    return service
