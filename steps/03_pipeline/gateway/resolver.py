"""The addresses behind a name, also while DNS does not answer."""

import asyncio
import socket

from aiohttp import ThreadedResolver
from aiohttp.abc import ResolveResult


class Resolver(ThreadedResolver):
    """Asks DNS for addresses. If it has not answered after `seconds`, or fails, its last answer counts."""

    def __init__(self, seconds: float):
        super().__init__()
        self._seconds = seconds
        self._known: dict[tuple, list[ResolveResult]] = {}
        self._asking: dict[tuple, asyncio.Task[OSError | None]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        name = host, port, family
        if name not in self._asking:  # one question at a time
            self._asking[name] = asyncio.create_task(self._ask(*name))
        asking = self._asking[name]
        await asyncio.wait([asking], timeout=self._seconds if name in self._known else None)
        if name not in self._known and (error := asking.result()):
            raise error
        return self._known[name]

    async def _ask(self, host: str, port: int, family: socket.AddressFamily) -> OSError | None:
        """Return why there is no answer. It may come when nobody waits for it any more."""
        try:
            self._known[host, port, family] = await super().resolve(host, port, family)
            return None
        except OSError as error:
            return error
        finally:
            del self._asking[host, port, family]
