"""Addresses while DNS is slow or away."""

import asyncio
import socket

import pytest

from resolver import Resolver


def test_while_dns_is_slow_or_away_its_last_answer_counts(monkeypatch):
    async def answer(resolver, host, port=0, family=socket.AF_INET):
        if isinstance(now[host], OSError):
            raise now[host]
        found = [f"{host} {now[host]}"]
        await asyncio.sleep(0.2 if now[host] == "slow" else 0)
        return found

    async def ask() -> None:
        resolver = Resolver(0.1)
        away = now["storage"] = socket.gaierror(socket.EAI_AGAIN, "DNS is away")
        with pytest.raises(socket.gaierror, match="DNS is away"):
            await resolver.resolve("storage")
        now["storage"] = "slow"  # nothing is known yet
        assert await resolver.resolve("storage") == ["storage slow"]
        now["storage"] = "first"
        assert await resolver.resolve("storage") == ["storage first"]
        for now["storage"] in (away, "slow"):
            answers = await asyncio.gather(*(resolver.resolve("storage") for _ in range(3)))
            assert answers == 3 * [["storage first"]]
        now["storage"] = away
        async with asyncio.timeout(10):  # the slow answer comes, and counts from then on
            while await resolver.resolve("storage") != ["storage slow"]:
                await asyncio.sleep(0.01)

    now: dict[str, str | OSError] = {}
    monkeypatch.setattr("aiohttp.ThreadedResolver.resolve", answer)
    asyncio.run(ask())
