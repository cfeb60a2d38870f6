"""What both wires share: the database, and the threads that write to it."""

import asyncio
import contextlib
from collections import Counter

from chassis.errors import RequestError
from database import AlreadyClaimed, Database
from schemas import (
    DIGITS,
    KEY_TAKEN,
    SHOWN_BYTES,
    ClaimRequest,
    DeadLetter,
    DeadLettersResponse,
    ListRequest,
    ListResponse,
    Page,
    ReadyResponse,
    Result,
    SummaryResponse,
)
from settings import Settings
from writer import Writer


class Service:
    """Results in a database. Between start() and stop() it stores and lists them, or is RequestError with 503.

    What is no coroutine waits for the disk: call it in a thread.
    """

    def __init__(self, settings: Settings):
        self._settings, self._database = settings, Database(settings.database)

    async def start(self) -> None:
        """Open the database. One that cannot be used yet does not stop the service."""
        self._results = Writer(self._database.insert, self._settings.max_write_queue)
        self._claims = Writer(self._database.claim, self._settings.max_write_queue)
        with contextlib.suppress(RequestError):
            await self.ready()

    async def stop(self) -> None:
        """Write what waits, unless that takes too long."""
        await asyncio.gather(self._results.drain(), self._claims.drain())
        self._database.close()

    async def ready(self) -> ReadyResponse:
        """RequestError with 503 and the reason if nothing could be stored."""
        await self._results.write([])
        return ReadyResponse()

    async def store(self, results: list[Result]) -> None:
        """Store each result whose id is new. When this returns, all of them are on disk."""
        await self._results.write([result.to_row() for result in results])

    async def claim(self, claim: ClaimRequest) -> None:
        """Give a key to a request, on disk. RequestError with 422 if it is another request's."""
        try:
            await self._claims.write([claim.model_dump()])
        except AlreadyClaimed:
            raise RequestError(422, KEY_TAKEN) from None

    def newest(self, request: ListRequest) -> ListResponse:
        rows, following = self._database.newest(request.limit, request.before, request.digit)
        return ListResponse(results=[Result.from_row(row) for row in rows], next=following)

    def count(self) -> SummaryResponse:
        by_digit, by_model_version = Counter({str(digit): 0 for digit in range(DIGITS)}), Counter()
        for digit, version, count in self._database.count():
            by_digit[str(digit)] += count
            by_model_version[version] += count
        return SummaryResponse(total=by_digit.total(), by_digit=by_digit, by_model_version=by_model_version)

    def bury(self, letters: list[dict]) -> None:
        """Keep what is no result, on disk."""
        self._database.bury(letters)

    def dead_letters(self, page: Page) -> DeadLettersResponse:
        rows, following = self._database.dead_letters(page.limit, page.before, SHOWN_BYTES)
        return DeadLettersResponse(dead_letters=[DeadLetter.from_row(row) for row in rows], next=following)
