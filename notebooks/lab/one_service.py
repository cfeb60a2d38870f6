"""One service that does the work of three: it checks a row, predicts, and waits until the result is on the disk."""

import os
import sqlite3
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI

INFERENCE = Path(__file__).resolve().parents[2] / "steps/03_pipeline/inference"
sys.path.append(str(INFERENCE))
import model  # type: ignore[import-not-found] # noqa: E402 (mypy does not know that folder)
from schemas import InferirRequest  # type: ignore[import-not-found] # noqa: E402

app = FastAPI()
loaded = model.load(INFERENCE / "model", "pickle")
database = sqlite3.connect(os.environ["DATABASE"], isolation_level=None)  # each statement is a transaction
database.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")
database.execute("CREATE TABLE results (id TEXT PRIMARY KEY, time REAL, features TEXT, prediction INTEGER)")


@app.post("/inferir")
async def inferir(body: InferirRequest) -> dict[str, Any]:
    predictions, probabilities = loaded.answer(np.array([body.features], dtype=np.float32))
    row = uuid.uuid4().hex, time.time(), str(body.features), int(predictions[0])
    database.execute("INSERT INTO results VALUES (?, ?, ?, ?)", row)
    return {"prediction": predictions.tolist(), "probabilities": probabilities.tolist(), "id": row[0]}


@app.get("/readyz")
async def readyz() -> dict[str, str]:
    return {"status": "ready"}


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]), log_level="warning")
