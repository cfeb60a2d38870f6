"""Trained models, kept in .cache/models: to train one takes ten seconds of two cores, and tests need it ten times."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / ".cache" / "models"
LIBRARIES = ["joblib", "numpy", "scikit-learn", "scipy", "skl2onnx"]


def trained(step: str) -> Path:
    """The folder of a step's trained model. It is trained if the code, a library or Python has changed.

    Step 03 has the model of step 02. Copy the folder before you change it.
    """
    step = step.partition("/")[0].partition("+")[0]
    step = {"03_pipeline": "02_fastapi"}.get(step, step)  # its inference service trains with the same files
    folder = KEPT / f"{step}-{fingerprint(ROOT / 'steps' / step)}"
    if not folder.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=KEPT) as new:
            model = Path(new) / "model"
            env = {**os.environ, "MODEL_DIR": str(model)}
            subprocess.run(
                [sys.executable, "train.py"],
                cwd=ROOT / "steps" / step,
                env=env,
                stdout=subprocess.DEVNULL,
                check=True,
                timeout=300,
            )
            try:
                model.rename(folder)
            except OSError:  # another test has trained the same model meanwhile
                if not folder.exists():
                    raise
        for old in sorted(KEPT.glob(f"{step}-*"), key=lambda kept: kept.stat().st_mtime)[:-3]:
            shutil.rmtree(old, ignore_errors=True)
    return folder


def fingerprint(step: Path) -> str:
    """What a model is made from: the code, the libraries and Python."""
    made_from = [sys.version, *map(version, LIBRARIES)]
    made_from += [path.read_text(encoding="utf-8") for path in sorted(step.glob("*.py"))]
    return hashlib.sha256("\n".join(made_from).encode()).hexdigest()[:16]
