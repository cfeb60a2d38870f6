import asyncio
import threading

import pytest
from samples import row

import writer
from chassis.errors import RequestError
from writer import Writer


class Disk:
    """Takes rows as Database.insert does, when its gate is open, and remembers the commits."""

    def __init__(self):
        self.gate, self.begun, self.commits = threading.Event(), threading.Event(), []
        self.refuses = False

    def insert(self, rows: list[dict]) -> bool:
        self.begun.set()
        assert self.gate.wait(10)
        if self.refuses:
            self.commits.append("refused")
            raise RequestError(503, "the disk is full")
        if any(row["id"] == "poison" for row in rows):
            raise ValueError("poison")
        ids = [row["id"] for row in rows]
        all_new = not {id for commit in self.commits for id in commit} & set(ids)
        self.commits.append(ids)
        return all_new


def write_while_a_commit_is_under_way(disk: Disk, ids: list[str], max_queue: int = 4096, cancel: str | None = None):
    """Return what came of each of `ids`, which were written while that of "first" was being committed."""

    async def main():
        group = Writer(disk.insert, max_queue)
        first = asyncio.create_task(group.write([row("first")]))
        assert await asyncio.to_thread(disk.begun.wait, 10)
        others = [asyncio.create_task(group.write([row(id)])) for id in ids]
        await asyncio.sleep(0)  # they are in the queue, or refused
        if cancel:
            others[ids.index(cancel)].cancel()
        disk.gate.set()
        outcomes = await asyncio.wait_for(asyncio.gather(first, *others, return_exceptions=True), 10)
        await group.drain()
        return outcomes[1:]

    return asyncio.run(main())


def test_what_comes_during_a_commit_is_written_by_the_next():
    disk = Disk()
    assert write_while_a_commit_is_under_way(disk, ["a", "b", "c"]) == [True, True, True]
    assert disk.commits == [["first"], ["a", "b", "c"]]


def test_all_that_share_a_commit_are_told_if_one_row_is_not_new():
    disk = Disk()
    assert write_while_a_commit_is_under_way(disk, ["a", "first"]) == [False, False]


def test_a_poisoned_row_fails_alone():
    disk = Disk()
    a, poison, b = write_while_a_commit_is_under_way(disk, ["a", "poison", "b"])
    assert (a, str(poison), b) == (True, "poison", True)
    assert disk.commits == [["first"], ["a"], ["b"]]


def test_a_full_disk_is_tried_once_for_all_waiting_requests():
    disk = Disk()
    disk.refuses = True
    outcomes = write_while_a_commit_is_under_way(disk, ["a", "b", "c"])
    assert [outcome.sentence for outcome in outcomes] == ["the disk is full"] * 3
    assert disk.commits == ["refused", "refused"]


def test_a_full_queue_is_refused_and_what_waits_in_it_is_written():
    disk = Disk()
    a, b, c = write_while_a_commit_is_under_way(disk, ["a", "b", "c"], max_queue=3)
    assert (a, b, c.status, c.headers) == (True, True, 503, {"Retry-After": "1"})
    assert c.sentence == "too many results wait for the disk: try again in a second"
    assert disk.commits == [["first"], ["a", "b"]]


def test_rows_of_a_client_that_is_gone_are_written_all_the_same():
    disk = Disk()
    a, b = write_while_a_commit_is_under_way(disk, ["a", "b"], cancel="a")
    assert (type(a), b) == (asyncio.CancelledError, True)
    assert disk.commits == [["first"], ["a", "b"]]


def test_a_disk_that_does_not_answer_is_refused_in_time_and_the_row_is_written_when_it_does(monkeypatch):
    monkeypatch.setattr(writer, "ANSWER_SECONDS", 0.02)
    disk = Disk()

    async def main():
        slow = writer.Writer(disk.insert)
        with pytest.raises(RequestError, match="^the database does not answer: try again later$"):
            await asyncio.wait_for(slow.write([row("a")]), 10)
        disk.gate.set()
        await slow.drain()

    asyncio.run(main())
    assert disk.commits == [["a"]]


def test_a_queue_that_was_full_takes_rows_again():
    disk = Disk()
    disk.gate.set()

    async def main():
        group = Writer(disk.insert, max_queue=1)
        for number in range(5):
            await asyncio.wait_for(group.write([row(str(number))]), 10)
            await asyncio.wait_for(group.write([]), 10)
        await group.drain()

    asyncio.run(main())
    assert disk.commits == [["0"], [], ["1"], [], ["2"], [], ["3"], [], ["4"], []]


def test_draining_writes_what_waits_and_takes_nothing_more():
    disk = Disk()

    async def main():
        group = Writer(disk.insert)
        writing = [asyncio.create_task(group.write([row(id)])) for id in "abc"]
        await asyncio.sleep(0)
        draining = asyncio.create_task(group.drain())
        await asyncio.sleep(0)
        with pytest.raises(RequestError):
            await group.write([row("late")])
        disk.gate.set()
        await asyncio.wait_for(draining, 10)
        assert [written.done() for written in writing] == [True] * 3

    asyncio.run(main())
    assert sorted(id for commit in disk.commits for id in commit) == ["a", "b", "c"]


def test_one_poisoned_row_among_500_requests_costs_few_commits():
    disk = Disk()
    ids = [f"{number}" for number in range(500)]
    outcomes = write_while_a_commit_is_under_way(disk, [*ids[:300], "poison", *ids[300:]])
    assert [id for id, outcome in zip([*ids[:300], "poison"], outcomes, strict=False) if outcome is not True] == [
        "poison"
    ]
    assert sorted(id for commit in disk.commits[1:] for id in commit) == sorted(ids)
    assert len(disk.commits) <= 10  # one for each time that the rest was halved
