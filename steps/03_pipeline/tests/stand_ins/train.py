"""The training of inference, in no time."""

import os
from pathlib import Path

if os.environ.get("FAILS") == "train":
    raise SystemExit("no memory")
folder = Path(os.environ.get("MODEL_DIR") or Path(__file__).parent / "model")
folder.mkdir()
(folder / "manifest.json").write_text("{}")
print("trained")
