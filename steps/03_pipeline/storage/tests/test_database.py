"""Results in the database: each once, in pages, counted."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from samples import pages, row

from chassis.errors import RequestError
from database import Database


def test_what_is_stored_comes_back_as_it_was(database):
    rows = [row("b", preprocess=None, request_id="ção 7"), row("a", timings_ms={}, prediction=9)]
    database.insert(rows)
    assert database.newest(10) == (rows, None)
    assert all(row["time"].tzinfo is UTC for row in database.newest(10)[0])


def test_a_time_of_another_zone_is_the_same_instant_in_utc(database):
    india = timezone(timedelta(hours=5, minutes=30))
    database.insert([row("a") | {"time": datetime(2026, 1, 1, 1, 0, 0, 123456, india)}])
    ((stored,), _) = database.newest(1)
    assert stored["time"].isoformat() == "2025-12-31T19:30:00.123456+00:00"


def test_the_first_and_the_last_times_that_there_are_can_be_stored_and_listed(database):
    database.insert([row("first", time="0001-01-01T00:00:00Z"), row("last", time="9999-12-31T23:59:59.999999Z")])
    assert pages(database, 1) == ["last", "first"]


def test_an_id_is_stored_once_and_the_first_result_stays(database):
    database.insert([row("a", prediction=1), row("a", prediction=2), row("b")])
    database.insert([row("b", prediction=4), row("c"), row("a", prediction=5)])
    assert {row["id"]: row["prediction"] for row in database.newest(10)[0]} == {"a": "1", "b": "3", "c": "3"}


@pytest.mark.parametrize("limit", [1, 3, 7, 100])
def test_pages_have_every_result_once_newest_first_even_if_times_are_the_same(database, limit):
    rows = [row(f"{number * 37 % 50:02}", seconds=number // 10) for number in range(50)]
    database.insert(rows)
    newest_first = sorted(rows, key=lambda row: (row["time"], row["id"]), reverse=True)
    assert pages(database, limit) == [row["id"] for row in newest_first]


def test_pages_skip_and_repeat_nothing_while_others_write(database):
    before = [f"old-{number:03}" for number in range(100)]
    database.insert([row(id, seconds=number // 30) for number, id in enumerate(before)])
    done = threading.Event()

    def write() -> int:
        count = 0
        while not done.is_set():  # now newer, now older, now of the same time
            database.insert([row(f"new-{count}", seconds=count % 5 - 1)])
            count += 1
        return count

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            for _ in range(5):
                ids = pages(database, 7)
                assert len(ids) == len(set(ids))
                assert set(before) <= set(ids)
        finally:
            done.set()
    assert writing.result(10) > 0


def test_pages_of_one_prediction_have_only_that_prediction(database):
    rows = [row(f"{number:02}", seconds=number // 8, prediction=number % 3) for number in range(40)]
    database.insert(rows)
    assert pages(database, 4, prediction="1") == [row["id"] for row in reversed(rows) if row["prediction"] == "1"]
    assert pages(database, 4, prediction="9") == []


def test_a_page_after_an_unknown_result_is_refused(database):
    with pytest.raises(RequestError, match="^before: there is no result with the id nowhere$") as refused:
        database.newest(10, before="nowhere")
    assert refused.value.status == 422


def test_results_are_counted_by_prediction_and_by_model_version(database):
    new = {"version": "new", "format": "onnx"}
    database.insert([row("a"), row("b"), row("c", model=new), row("d", model=new, prediction=0)])
    assert database.count_by_prediction(10) == [("3", True, 3), ("0", True, 1)]
    assert database.count_by_prediction(1) == [("3", True, 3)]
    assert database.count_by_model_version() == {"b5e7a46e61b8": 2, "new": 2}


def test_rows_are_found_by_id_in_the_order_of_the_ids(database):
    database.insert([row(id) for id in "abcd"])
    assert [found["id"] for found in database.find(["d", "nowhere", "a", "c"])] == ["d", "a", "c"]


def test_a_restart_keeps_everything(database, url):
    rows = [row(f"{number:03}") for number in range(100)]
    database.insert(rows)
    database.close()
    with closing(Database(url)) as restarted:
        assert restarted.newest(100) == (rows[::-1], None)


def test_a_row_that_cannot_be_stored_does_not_count_as_an_outage(database):
    with pytest.raises((sa.exc.StatementError, TypeError), match="not JSON serializable"):
        database.insert([row("a"), row("b") | {"features": {1, 2}}])
    database.insert([row("c")])
    assert pages(database, 10) == ["c"]


def test_a_new_database_may_be_opened_by_several_workers_at_once(url):
    workers, begin = [Database(url) for _ in range(6)], threading.Barrier(6)

    def work(number: int) -> None:
        begin.wait(10)
        for _ in range(3):  # one that is late to create the table is refused once
            try:
                return workers[number].insert([row(f"{number}")])
            except RequestError:
                continue
        raise AssertionError("refused three times")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert pages(workers[0], 10) == ["5", "4", "3", "2", "1", "0"]
    for worker in workers:
        worker.close()


def test_workers_that_write_the_same_ids_in_other_orders_do_not_block_each_other(database, url):
    ids = [f"{number:03}" for number in range(60)]
    with closing(Database(url)) as other, ThreadPoolExecutor(2) as pool:
        for each in (database, other):  # one after the other: SQLite lets nobody else in while it switches to WAL
            each.insert([])
        for turn in range(10):
            rows = [row(f"{turn}-{id}") for id in ids]
            writing = [pool.submit(database.insert, rows), pool.submit(other.insert, rows[::-1])]
            assert {written.result(20) for written in writing} == {True, False}  # one of them was first
    assert len(pages(database, 100)) == 600
