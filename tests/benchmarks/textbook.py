"""FastAPI as most tutorials write it, to compare step 02 with: each row is predicted on the event loop, by itself."""

import os
from pathlib import Path

import joblib
import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
classifier = joblib.load(Path(os.environ["MODEL_DIR"]) / "model.pkl")


class Row(BaseModel):
    features: list[float]


@app.post("/inferir")
async def inferir(row: Row):
    probabilities = classifier.predict_proba(np.array([row.features]))
    return {"prediction": [int(probabilities.argmax())], "probabilities": probabilities.tolist()}


@app.get("/livez")
async def livez():
    return {"status": "alive"}


if __name__ == "__main__":
    # The access log stays on, as in tutorials: step 02 and the development server write a line for each request too.
    uvicorn.run(app, port=int(os.environ["PORT"]), loop="uvloop", http="httptools")
