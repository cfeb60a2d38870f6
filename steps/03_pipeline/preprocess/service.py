"""Turn pictures into features in some threads, with a queue in front of them."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
from PIL import Image
from prometheus_client import Histogram

from chassis.errors import RequestError
from chassis.telemetry import SECONDS
from features import VERSIONS
from picture import PictureError, read_ink
from settings import Settings

PREPROCESS = Histogram("preprocess_seconds", "From the bytes of a picture to features", ["version"], buckets=SECONDS)


class Service:
    """Threads that preprocess pictures, between start() and stop().

    They keep the event loop free: a large picture can take half a second, and /livez has to answer meanwhile. Pillow
    releases Python's global lock for most of that time, so several threads can use several cores.
    """

    def __init__(self, settings: Settings):
        self.settings, self.version = settings, settings.preprocess_version
        self._extract: Callable[[np.ndarray], np.ndarray] = VERSIONS[self.version]
        self._seconds = PREPROCESS.labels(self.version)

    def start(self) -> None:
        self._waiting, self._free = 0, asyncio.Semaphore(self.settings.threads)
        self._threads = ThreadPoolExecutor(self.settings.threads, thread_name_prefix="preprocess")
        # Pillow and NumPy load parts of themselves with the first picture. Make it this one, so that no client waits.
        line = BytesIO()
        Image.fromarray(255 * np.eye(28, dtype=np.uint8)).save(line, "PNG")
        self._extract(read_ink(line.getvalue(), max_pixels=28 * 28))

    def stop(self) -> None:
        self._threads.shutdown()

    async def preprocess(self, content: bytes) -> np.ndarray:
        """Return the features of a picture, 64 whole numbers.

        Raises RequestError: 400, 413 or 422 if no ink can be read from it, 503 if too many pictures wait already.
        """
        if self._waiting >= self.settings.max_pictures:
            raise RequestError(503, "too many pictures are waiting: try again in a second", Retry_After="1")
        # Wait here, not in the queue of the threads: when a client goes away, its picture stops waiting at once.
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        job, loop = self._threads.submit(self._work, content), asyncio.get_running_loop()
        # The thread is free when it has finished, even if the client has gone by then.
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._free.release))
        try:
            return await asyncio.wrap_future(job)
        except PictureError as error:
            raise RequestError(error.status, str(error)) from error

    def _work(self, content: bytes) -> np.ndarray:
        with self._seconds.time():
            return self._extract(read_ink(content, self.settings.max_pixels))
