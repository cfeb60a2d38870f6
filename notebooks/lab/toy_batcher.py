"""The toy batcher of notebook 02, for its exercises. It works, and it is easy to stop."""

# As a reader writes it, without types:
# mypy: disallow-untyped-defs=False

import asyncio


class Batcher:
    def __init__(self, predict):
        self.predict, self.waiting, self.busy = predict, [], False

    async def submit(self, row):
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((row, future))
        if not self.busy:
            self.busy = True
            self.task = asyncio.create_task(self.work())
        return await future

    async def work(self):
        while self.waiting:
            batch, self.waiting = self.waiting, []
            answers = await asyncio.to_thread(self.predict, [row for row, _ in batch])
            for (_, future), answer in zip(batch, answers, strict=True):
                future.set_result(answer)
        self.busy = False
