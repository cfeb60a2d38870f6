"""A batch taken apart: POST /inferir does what step 02 does with a body, and answers with the ms that each part took.

Runs with step 02's folder on PYTHONPATH, whose modules it measures.
"""

import gc
import os
from pathlib import Path
from time import perf_counter

import numpy as np
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import model
from schemas import N_FEATURES, InferirRequest

loaded = model.load(Path(os.environ["MODEL_DIR"]), os.environ["MODEL_FORMAT"])


async def inferir(request: Request) -> Response:
    body = await request.body()
    begin = perf_counter()
    features = InferirRequest.model_validate(orjson.loads(body)).features
    rows = np.array(features, dtype=np.float32).reshape(-1, N_FEATURES)
    read = perf_counter()
    output = loaded.predict(rows)
    predicted = perf_counter()
    predictions, probabilities = loaded.decode(output)
    answer = {"prediction": predictions.tolist(), "probabilities": probabilities, "model": loaded.info}
    chosen = perf_counter()
    orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    written = perf_counter()
    seconds = {"read": read - begin, "predict": predicted - read, "write": written - chosen}
    return JSONResponse({part: 1000 * took for part, took in seconds.items()})


async def livez(request: Request) -> Response:
    return JSONResponse({"status": "alive"})


app = Starlette(routes=[Route("/inferir", inferir, methods=["POST"]), Route("/livez", livez)])

if __name__ == "__main__":
    gc.collect()
    gc.freeze()  # as step 02 does: else reading would take longer here than there
    uvicorn.run(app, port=int(os.environ["PORT"]), loop="uvloop", http="httptools", access_log=False)
