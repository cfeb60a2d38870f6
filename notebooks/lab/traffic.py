"""Send requests from several clients at once, while something is done to the services."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Reply = TypeVar("Reply")


@contextmanager
def sending(send: Callable[[], Reply], clients: int = 4) -> Iterator[list[Reply]]:
    """Call `send` again and again in some threads while the block runs. Yields the list of what it has returned.

    Raises the first error of `send`, which ends its thread.
    """
    replies: list[Reply] = []
    over = threading.Event()

    def client() -> None:
        while not over.is_set():
            replies.append(send())

    with ThreadPoolExecutor(clients) as pool:
        working = [pool.submit(client) for _ in range(clients)]
        try:
            yield replies
        finally:
            over.set()
    for work in working:
        work.result()
