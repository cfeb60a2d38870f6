"""Stop the toy batcher as an impatient client does."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import sleep

from lab.toy_batcher import Batcher

notebook = "02_fastapi"
minutes = 15
hints = [
    "Clients do not wait for ever: they have a timeout, or somebody closes the page. What happens to the future then?",
    "A task that is cancelled cancels the future that it awaits. Read the line of the toy that fills the future in.",
    "asyncio.wait_for(..., timeout) gives up after `timeout` seconds and cancels. A prediction takes 50 ms here.",
]


async def stub(submit, row):
    """Use the toy batcher once, so that it answers nobody afterwards."""
    await submit(row)


async def solution(submit, row):
    """Go away before the answer is there. The batcher fills in a future that is cancelled: InvalidStateError.

    The error ends the task `work`, and `busy` stays true. So a timeout in one client stops the service for all. A
    batcher has to ask `future.done()` first.
    """
    try:
        await asyncio.wait_for(submit(row), timeout=0.01)
    except TimeoutError:
        pass


async def patient(submit, row):
    try:
        await asyncio.wait_for(submit(row), timeout=1)
    except TimeoutError:
        pass


async def a_crowd(submit, row):
    await asyncio.gather(*(submit(row) for _ in range(1000)))


async def nothing(submit, row):
    try:
        await submit(row[1:])
    except Exception:
        pass


async def never_begun(submit, row):
    task = asyncio.create_task(submit(row))
    task.cancel()


wrong = [
    (patient, "waits for its answer"),
    (a_crowd, "late, but they are answered"),
    (nothing, "not the row"),
    (never_begun, "never asked"),
]


def check(leave):
    with ThreadPoolExecutor(1) as thread:  # a notebook's own thread has a running event loop already
        return thread.submit(asyncio.run, attack(leave)).result()


async def attack(leave):
    rows = []
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the toy's error needs no traceback here

    def predict(batch):
        rows.extend(batch)
        sleep(0.05)
        return [sum(row) for row in batch]

    batcher, row = Batcher(predict), [7.0] * 64
    client = asyncio.create_task(leave(batcher.submit, row))
    await asyncio.wait([client], timeout=2)
    if not client.done():
        return "your client still waits after two seconds: it has to go."
    with suppress(TimeoutError, asyncio.CancelledError):  # a client may well end so
        client.result()
    if any(sent != row for sent in rows):
        return "that is not the row that you were given, and here no row is bad."
    await asyncio.sleep(0.2)  # what is predicted now ends
    try:
        await asyncio.wait_for(batcher.submit(row), timeout=1)
    except TimeoutError:
        return ""
    if len(rows) == 1:
        return "the batcher was never asked: the request was gone before it began."
    if len(rows) > 2:
        return "many rows make the others late, but they are answered. Something has to end `work`."
    return "the next client is answered. Yours waits for its answer, as a good client does."
