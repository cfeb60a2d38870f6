"""A batcher that goes on, whatever its clients and its model do."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Event

notebook = "02_fastapi"
minutes = 30
hints = [
    "Let a class inherit from the toy's, and override `submit` and `work`. The bound is one `if` in `submit`.",
    "`future.done()` is true if the client has gone. `future.set_exception(error)` gives an error to one that waits.",
    "Put try and except around the call of `predict` alone. Each future of the batch needs something afterwards.",
]
SECONDS = 1


def stub(predict, most):
    """Return an `async def submit(row)`."""
    from lab.toy_batcher import Batcher

    return Batcher(predict).submit


def solution(predict, most):
    """Each promise is one line or two: a bound before the list grows, an error that is an answer, a look at `done()`.

    What must not happen is that `work` ends by an error: nobody would start it again. So all that can fail in it has to
    be caught there. Ours, steps/02_fastapi/batcher.py, does the same and bounds its batches, too.
    """
    import asyncio

    from lab.toy_batcher import Batcher

    class Bounded(Batcher):
        async def submit(self, row):
            if len(self.waiting) >= most:
                raise RuntimeError("too many rows wait")
            return await super().submit(row)

        async def work(self):
            while self.waiting:
                batch, self.waiting = self.waiting, []
                try:
                    answers = await asyncio.to_thread(self.predict, [row for row, _ in batch])
                except Exception as error:
                    answers = [error] * len(batch)
                for (_, future), answer in zip(batch, answers, strict=True):
                    if future.done():
                        continue
                    if isinstance(answer, Exception):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)
            self.busy = False

    return Bounded(predict).submit


def bound_alone(predict, most):
    from lab.toy_batcher import Batcher

    class Bounded(Batcher):
        async def submit(self, row):
            if len(self.waiting) >= most:
                raise RuntimeError("too many rows wait")
            return await super().submit(row)

    return Bounded(predict).submit


def without_a_bound(predict, most):
    return solution(predict, 1_000_000)


def in_the_loop(predict, most):
    async def submit(row):
        return predict([row])[0]

    return submit


def each_alone(predict, most):
    waiting = []

    async def submit(row):
        if len(waiting) > most:
            raise RuntimeError("too many rows wait")
        waiting.append(row)
        try:
            return (await asyncio.to_thread(predict, [row]))[0]
        finally:
            waiting.remove(row)

    return submit


def failing_batch_forgotten(predict, most):
    inner = solution(lambda rows: [None] if "bad" in rows else predict(rows), most)

    async def submit(row):
        answer = await inner(row)
        return await asyncio.get_running_loop().create_future() if answer is None else answer

    return submit


wrong = [
    (bound_alone, "a client has gone"),
    (without_a_bound, "has to be refused"),
    (in_the_loop, "event loop"),
    (each_alone, "no call is shared"),
    (failing_batch_forgotten, "got no error"),
]


def check(bounded):
    with ThreadPoolExecutor(1) as thread:  # a notebook's own thread has a running event loop already
        return thread.submit(asyncio.run, examine(bounded)).result()


class HeldModel:
    """A model that predicts when it may, so that a check needs no clock."""

    def __init__(self):
        self.sizes, self.begun, self.go_on = [], Event(), Event()

    def predict(self, rows):
        self.sizes.append(len(rows))
        self.begun.set()
        if not self.go_on.wait(SECONDS):
            raise TimeoutError("predict was held")
        if "bad" in rows:
            raise ValueError("a row is bad")
        return [10 * row for row in rows]

    async def hold(self, submit):
        """Let a first row occupy the model. Return the task that waits for its answer."""
        self.begun.clear()
        self.go_on.clear()
        task = asyncio.create_task(submit(0))
        await until(lambda: self.begun.is_set() or task.done())
        return task


async def examine(bounded):
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # what a wrong answer leaves behind is told below
    most = 5
    model = HeldModel()
    submit = bounded(model.predict, most)
    first = await model.hold(submit)
    if first.done() or not model.begun.is_set():
        return "`predict` ran on the event loop, or not at all: nothing else could run until it had ended."
    waiting = [asyncio.create_task(submit(row)) for row in range(1, most + 2)]
    await until(waiting[-1].done)
    refused = [task for task in waiting if task.done()]
    model.go_on.set()
    results = await answers(first, *waiting)
    if len(refused) != 1 or refused[0] is not waiting[-1] or not isinstance(results[-1], Exception):
        return f"one row is predicted and {most} wait: one more has to be refused at once, and no other."
    if results[:-1] != [10 * row for row in range(most + 1)]:
        return f"the rows 0 to {most} got {results[:-1]}, and each should get ten times itself."
    if len(model.sizes) > 3:
        return f"{most + 1} rows took {len(model.sizes)} calls: no call is shared."

    (result,) = await answers(asyncio.create_task(submit(7)))
    if result != 70:
        return f"nobody waits any more, and a row gets {result!r}."

    first = await model.hold(submit)
    gone = asyncio.create_task(submit(1))
    await asyncio.sleep(0)  # it asks
    gone.cancel()
    first.cancel()
    model.go_on.set()
    (result,) = await answers(asyncio.create_task(submit(8)))
    if result != 80:
        return f"a client has gone, and the next one gets {result!r}."

    (result,) = await answers(asyncio.create_task(submit("bad")))
    if not isinstance(result, Exception):
        return f"`predict` failed, and the client of that row got no error, but {result!r}."
    (result,) = await answers(asyncio.create_task(submit(9)))
    return "" if result == 90 else f"after a batch that failed, the next client gets {result!r}."


async def until(happened):
    """Wait for something to happen, for half a second at most."""
    for _ in range(100):
        if happened():
            return
        await asyncio.sleep(0.005)


async def answers(*tasks):
    """Return what each task gives: an answer, an error, or "no answer"."""
    results = await asyncio.gather(*(asyncio.wait_for(task, SECONDS) for task in tasks), return_exceptions=True)
    return ["no answer" if isinstance(result, TimeoutError) else result for result in results]
