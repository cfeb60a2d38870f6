"""Callers for a pod: each asks, prints a line about the answer, and asks again, without retries.

callers.py sends this file's text to a pod that has aiohttp, with what to ask as JSON. The callers end when there is a
file of their name.
"""

import asyncio
import itertools
import json
import sys
import time
from pathlib import Path

import aiohttp

KEPT = "stored", "model", "preprocess", "error", "storage"  # of an answer's body


async def call(asked: dict, sent: dict, name: str) -> None:
    """One caller. A server may close a connection that is idle, so this one is used by this caller alone, and often."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as session:
        for number in itertools.count():
            if Path("/tmp", asked["name"]).exists():
                return
            key, begin = f"{name}-{number}", time.time()
            headers = {**sent["headers"], "X-Request-ID": key}
            try:
                async with session.post(asked["url"], data=bytes.fromhex(sent["data"]), headers=headers) as response:
                    status, body = response.status, await response.json()
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                status, body = 0, {"error": repr(error)}
            kept = {name: body[name] for name in KEPT if name in body}
            print(json.dumps([key, begin, time.time() - begin, status, kept]), flush=True)
            await asyncio.sleep(asked["pause"])


async def main(asked: dict) -> None:
    names = [f"{asked['name']}-{number}" for number in range(len(asked["sent"]))]
    await asyncio.gather(*map(call, itertools.repeat(asked), asked["sent"], names))


asyncio.run(main(json.loads(sys.argv[1])))
