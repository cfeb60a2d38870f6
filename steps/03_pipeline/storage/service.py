"""What routes and messages share: the database, and the threads that write to it."""

import asyncio
import contextlib

from chassis.errors import RequestError
from database import AlreadyClaimed, Database
from schemas import (
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
from sentences import KEY_TAKEN, MAX_RESULTS
from settings import Settings
from tables import Row
from writer import Writer

MAX_PREDICTIONS = 100  # in a summary: a regressor may have a million different ones


class Service:
    """Stores and lists results, from start() to stop().

    Raises RequestError (503) while the database cannot be used. The methods that are not coroutines wait for the disk:
    call them in a thread.
    """

    def __init__(self, settings: Settings):
        self._settings, self._database = settings, Database(settings.database)

    async def start(self) -> None:
        """Open the database. If it cannot be used yet, the service starts all the same."""
        self._results = Writer(self._database.insert, self._settings.max_write_queue)
        self._claims = Writer(self._database.claim, self._settings.max_write_queue)
        with contextlib.suppress(RequestError):
            await self.ready()

    async def stop(self) -> None:
        """Write what waits, unless that takes too long."""
        await asyncio.gather(self._results.drain(), self._claims.drain())
        self._database.close()

    async def ready(self) -> ReadyResponse:
        """Raises RequestError (503), with the reason, if nothing can be stored."""
        await self._results.write([])
        return ReadyResponse()

    async def store(self, results: list[Result]) -> bool:
        """Store each result whose id is new. When this returns, all of them are on disk.

        Return whether all were new. False also if a result was not that shared their commit.
        """
        return await self._results.write([result.to_row() for result in results])

    async def claim(self, claim: ClaimRequest) -> list[Result]:
        """Give a key to a request, on disk. If it had the key before, return the results that are stored for it.

        Raises RequestError (422) if the key belongs to another request.
        """
        try:
            is_new = await self._claims.write([claim.model_dump(include={"key", "request"})])
        except AlreadyClaimed:
            raise RequestError(422, KEY_TAKEN) from None
        return [] if is_new or not claim.id else await asyncio.to_thread(self._stored_for, claim.id)

    def _stored_for(self, id: str) -> list[Result]:
        """Return the result with the id, or those of a batch: id.0, id.1 and so on."""
        rows = self._database.find([id, f"{id}.0"])
        if rows and rows[0]["id"] != id:
            rows += self._database.find([f"{id}.{number}" for number in range(1, MAX_RESULTS)])
        return [Result.from_row(row) for row in rows]

    def newest(self, request: ListRequest) -> ListResponse:
        rows, following = self._database.newest(request.limit, request.before, request.prediction)
        return ListResponse(results=[Result.from_row(row) for row in rows], next=following)

    def count(self) -> SummaryResponse:
        by_version = self._database.count_by_model_version()
        counted = self._database.count_by_prediction(MAX_PREDICTIONS)
        counted.sort(key=lambda row: (0, float(row[0]), "") if row[1] else (1, 0.0, row[0]))
        by_prediction: dict[str, int] = {}
        for prediction, _, count in counted:  # the number 3 and the text "3" count together
            by_prediction[prediction] = by_prediction.get(prediction, 0) + count
        total = sum(by_version.values())
        return SummaryResponse(total=total, by_prediction=by_prediction, by_model_version=by_version)

    def store_dead_letters(self, letters: list[Row]) -> None:
        """Store what cannot be stored as a result. When this returns, it is on disk."""
        self._database.insert_dead_letters(letters)

    def dead_letters(self, page: Page) -> DeadLettersResponse:
        rows, following = self._database.dead_letters(page.limit, page.before, SHOWN_BYTES)
        return DeadLettersResponse(dead_letters=[DeadLetter.from_row(row) for row in rows], next=following)
