"""A balancer of connections, as clusters have them in front of replicas: it counts bytes and reads none."""

import asyncio
import contextlib
from itertools import cycle


class Proxy:
    """Give each new connection to the next of some local ports, and count the bytes in both directions.

    What travels over a connection that is kept goes where the connection goes: such a balancer knows of no requests.
    """

    def __init__(self, *ports: int):
        self._ports, self._tasks = cycle(ports), set()
        self.bytes = 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        both, writers = [], [writer]
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", next(self._ports))
            writers.append(far_writer)
            both = [asyncio.create_task(self._pass_on(*ends)) for ends in ((reader, far_writer), (far_reader, writer))]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for task in both:
                task.cancel()
            for each in writers:
                each.close()
            self._tasks.discard(asyncio.current_task())

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                self.bytes += len(data)
                writer.write(data)
                await writer.drain()
