"""A balancer of connections, as a cluster has in front of replicas. It counts bytes and does not look at them."""

import asyncio
import contextlib
from itertools import cycle
from typing import Self


class Proxy:
    """Give each new connection to the next of some local ports, and count the bytes in both directions.

    Such a balancer does not see requests: all requests on one connection go to the same port.
    """

    def __init__(self, *ports: int):
        self._ports = cycle(ports)
        self._tasks: set[asyncio.Task[None]] = set()
        self.bytes = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task  # asyncio runs this method as a task
        self._tasks.add(task)
        both: list[asyncio.Task[None]] = []
        writers = [writer]
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", next(self._ports))
            writers.append(far_writer)
            both = [asyncio.create_task(self._pass_on(*ends)) for ends in ((reader, far_writer), (far_reader, writer))]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for direction in both:
                direction.cancel()
            for each in writers:
                each.close()
            self._tasks.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                self.bytes += len(data)
                writer.write(data)
                await writer.drain()
