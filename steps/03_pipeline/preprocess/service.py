"""What turns pictures into features: some threads, and a queue in front of them."""

import asyncio
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

    That keeps the event loop free: to decode a picture can take half a second, and /livez is asked meanwhile. Pillow
    lets go of Python's global lock for most of it.
    """

    def __init__(self, settings: Settings):
        self.settings, self.version = settings, settings.preprocess_version
        self._extract, self._seconds = VERSIONS[self.version], PREPROCESS.labels(self.version)

    def start(self) -> None:
        self._waiting, self._free = 0, asyncio.Semaphore(self.settings.threads)
        self._threads = ThreadPoolExecutor(self.settings.threads, thread_name_prefix="preprocess")
        # Pillow and NumPy load some of themselves for the first picture. It is this one, so that no client waits.
        line = BytesIO()
        Image.fromarray(255 * np.eye(28, dtype=np.uint8)).save(line, "PNG")
        self._extract(read_ink(line.getvalue(), max_pixels=28 * 28))

    def stop(self) -> None:
        self._threads.shutdown()

    async def preprocess(self, content: bytes) -> np.ndarray:
        """Return the features of a picture, 64 whole numbers.

        RequestError with 400, 413 or 422 if it has none, and with 503 if too many pictures wait already.
        """
        if self._waiting >= self.settings.max_pictures:
            raise RequestError(503, "too many pictures are waiting: try again in a second", Retry_After="1")
        # The queue is here and not the threads' own: a picture whose client goes away leaves it at once.
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        job, loop = self._threads.submit(self._work, content), asyncio.get_running_loop()
        # The thread is free when it has finished, even if nobody waits for the answer any more.
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._free.release))
        try:
            return await asyncio.wrap_future(job)
        except PictureError as error:
            raise RequestError(error.status, str(error)) from error

    def _work(self, content: bytes) -> np.ndarray:
        with self._seconds.time():
            return self._extract(read_ink(content, self.settings.max_pixels))
