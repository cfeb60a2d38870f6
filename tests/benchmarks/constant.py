"""The limit: how fast uvicorn and Starlette answer when there is nothing to check, to predict or to log."""

import os

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route


async def inferir(request):
    await request.body()
    return JSONResponse({"prediction": [3]})


async def livez(request):
    return JSONResponse({"status": "alive"})


app = Starlette(routes=[Route("/inferir", inferir, methods=["POST"]), Route("/livez", livez)])

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]), loop="uvloop", http="httptools", access_log=False)
