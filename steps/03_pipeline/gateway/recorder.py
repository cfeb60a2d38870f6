"""Results on their way to storage: those that come while a call is under way share the next one."""

import asyncio
from collections.abc import Awaitable, Callable

CALLS = 2  # at a time: one may travel while storage commits the other
MAX_RESULTS = 1024  # in a call; storage takes no more


class Recorder:
    """Call `send(results, seconds)` for many requests at once. A call and a commit cost much, another result little."""

    def __init__(self, send: Callable[[list[dict], float], Awaitable[None]], seconds: float):
        self._send, self._seconds = send, seconds
        self._waiting: list[tuple[list[dict], asyncio.Future]] = []
        self._calls: set[asyncio.Task] = set()

    async def record(self, results: list[dict]) -> None:
        """Return when `results` are safe. Raises what `send` does; TimeoutError if it takes longer than `seconds`."""
        safe = asyncio.get_running_loop().create_future()
        self._waiting.append((results, safe))
        if len(self._calls) < CALLS:
            call = asyncio.create_task(self._work())
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        async with asyncio.timeout(self._seconds):
            await safe

    async def drain(self) -> None:
        await asyncio.gather(*self._calls)

    async def _work(self) -> None:
        await asyncio.sleep(0)  # let in those whose predictions came with ours
        while together := self._take():
            results = [result for results, _ in together for result in results]
            try:
                await self._send(results, self._seconds)
            except Exception as error:
                for _, safe in together:
                    if not safe.done():
                        safe.set_exception(error)
            else:
                for _, safe in together:
                    if not safe.done():
                        safe.set_result(None)

    def _take(self) -> list[tuple[list[dict], asyncio.Future]]:
        """The next call's results, without those that nobody waits for any more."""
        waiting = [(results, safe) for results, safe in self._waiting if not safe.done()]
        size = count = 0
        for results, _ in waiting:
            size += len(results)
            if size > MAX_RESULTS:
                break
            count += 1
        self._waiting = waiting[count:]
        return waiting[:count]
