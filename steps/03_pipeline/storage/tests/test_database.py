import socket
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from samples import NOON, row

import database as storage
from chassis.errors import RequestError
from database import AlreadyClaimed, Database
from tables import RESULTS


def pages(database: Database, limit: int, **where) -> list[str]:
    """The ids of all pages."""
    rows, before = database.newest(limit, **where)
    ids = [row["id"] for row in rows]
    while before:
        rows, before = database.newest(limit, before, **where)
        assert rows
        ids += [row["id"] for row in rows]
    return ids


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
    assert {row["id"]: row["prediction"] for row in database.newest(10)[0]} == {"a": 1, "b": 3, "c": 3}


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


def test_pages_of_one_digit_have_only_that_digit(database):
    rows = [row(f"{number:02}", seconds=number // 8, prediction=number % 3) for number in range(40)]
    database.insert(rows)
    assert pages(database, 4, digit=1) == [row["id"] for row in reversed(rows) if row["prediction"] == 1]
    assert pages(database, 4, digit=9) == []


def test_a_page_after_a_result_that_there_is_not_is_refused(database):
    with pytest.raises(RequestError, match="^before: there is no result with the id nowhere$") as refused:
        database.newest(10, before="nowhere")
    assert refused.value.status == 422


def test_count_tells_pairs_of_digit_and_model_version(database):
    new = {"version": "new", "format": "onnx"}
    database.insert([row("a"), row("b"), row("c", model=new), row("d", model=new, prediction=0)])
    assert sorted(database.count()) == [(0, "new", 1), (3, "b5e7a46e61b8", 2), (3, "new", 1)]


def test_a_restart_keeps_everything(database, url):
    rows = [row(f"{number:03}") for number in range(100)]
    database.insert(rows)
    database.close()
    with closing(Database(url)) as restarted:
        assert restarted.newest(100) == (rows[::-1], None)


def test_a_trial_leaves_nothing_behind(database):
    database.insert([])
    assert database.newest(10) == ([], None)
    assert database.count() == []


def test_what_was_written_is_trusted_for_a_second(database, monkeypatch):
    seconds, commits = 100.0, []
    monkeypatch.setattr(storage, "monotonic", lambda: seconds)
    database.insert([row("a")])
    sa.event.listen(database._writer, "commit", commits.append)
    # At each time, the rows of some inserts, and how many of those had to commit: a trial only if nothing was written
    for seconds, inserts, count in [
        (100.9, [[]], 0),
        (101.1, [[], []], 1),
        (102.0, [[], [row("a")]], 1),
        (102.2, [[], [row("b")]], 2),
        (103.1, [[]], 0),
    ]:
        commits.clear()
        for rows in inserts:
            database.insert(rows)
        assert len(commits) == count, seconds


def test_after_a_failure_every_trial_is_made(sqlite_url, monkeypatch):
    monkeypatch.setattr(storage, "PATIENCE", 0.05)
    with closing(Database(sqlite_url)) as database:
        database.insert([])
        with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as other:
            other.execute("BEGIN IMMEDIATE")
            for rows in ([row("a")], [], []):
                with pytest.raises(RequestError, match="database is locked"):
                    database.insert(rows)
        database.insert([])


def test_a_row_that_cannot_be_stored_is_no_fault_of_the_database(database):
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
        for turn in range(10):
            rows = [row(f"{turn}-{id}") for id in ids]
            writing = [pool.submit(database.insert, rows), pool.submit(other.insert, rows[::-1])]
            assert [written.result(20) for written in writing] == [None, None]
    assert len(pages(database, 100)) == 600


def test_connections_that_were_cut_are_made_anew(database, url):
    if not url.startswith("postgresql"):
        pytest.skip("SQLite has no connections to cut")
    database.insert([row("a")])
    with closing(Database(url)) as other, other._readers.connect() as connection:
        others = "pid <> pg_backend_pid() AND datname = current_database()"
        connection.exec_driver_sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
    database.insert([row("b")])
    assert pages(database, 10) == ["b", "a"]


def test_a_commit_of_sqlite_waits_for_the_disk_and_readers_do_not_wait_for_it(sqlite_url):
    with closing(Database(sqlite_url)) as database, database._writer.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
        assert connection.exec_driver_sql("PRAGMA fullfsync").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_readers_that_take_all_connections_are_refused_and_do_not_hinder_the_writer(url, monkeypatch, caplog):
    monkeypatch.setattr(storage, "PATIENCE", 1)
    with closing(Database(url)) as database:
        database.insert([row("a")])
        pools = database._readers.pool, database._writer.pool
        with ExitStack() as reading:
            for _ in range(15):
                reading.enter_context(database._readers.connect())
            with pytest.raises(
                RequestError, match="^all connections to the database are busy: try again later$"
            ) as refused:
                database.newest(1)
            assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "1"})
            database.insert([row("b")])
        assert pages(database, 10) == ["b", "a"]
        assert (database._readers.pool, database._writer.pool) == pools  # nothing was thrown away
        assert caplog.messages == []


def test_sqlite_that_another_program_locks_is_refused_and_still_read(sqlite_url, monkeypatch):
    monkeypatch.setattr(storage, "PATIENCE", 0.05)
    with closing(Database(sqlite_url)) as database:
        database.insert([row("a")])
        with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(RequestError, match="database is locked") as refused:
                database.insert([row("b")])
            assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "1"})
            assert pages(database, 10) == ["a"]
        database.insert([row("b")])
        assert pages(database, 10) == ["b", "a"]


@pytest.mark.parametrize(
    ("limit", "problem"),
    [("max_page_count = 60", "database or disk is full"), ("query_only = ON", "attempt to write a readonly database")],
)
def test_a_full_disk_and_a_read_only_one_are_refused_and_lose_nothing(sqlite_url, limit, problem, caplog):
    with closing(Database(sqlite_url)) as database:
        database.insert([row("000")])
        stored = ["000"]

        @sa.event.listens_for(database._writer, "checkout")
        def restrict(connection, record, proxy):
            connection.execute(f"PRAGMA {limit}")

        with pytest.raises(RequestError, match=f"^the database cannot be used \\({problem}\\): try again later$"):
            for number in range(1, 1000):
                database.insert([row(f"{number:03}")])
                stored.append(f"{number:03}")
        with pytest.raises(RequestError, match=problem):
            while True:  # a trial takes little room, so the last pages may still have some
                database.insert([row(f"more-{len(stored)}")])
                stored.append(f"more-{len(stored)}")
        assert sorted(pages(database, 100)) == sorted(stored)
        sa.event.remove(database._writer, "checkout", restrict)
        database.close()
        database.insert([row("back")])
        assert sorted(pages(database, 100)) == sorted([*stored, "back"])
    assert caplog.messages == [f"the database cannot be used: {problem}", "the database can be used again"]


def test_a_folder_that_is_missing_is_refused_until_it_is_there(tmp_path):
    folder = tmp_path / "later"
    with closing(Database(f"sqlite:///{folder.as_posix()}/results.db")) as database:
        for call in (lambda: database.insert([row("a")]), lambda: database.newest(1), database.count):
            with pytest.raises(RequestError, match=r"\(unable to open database file\)") as refused:
                call()
            assert str(tmp_path) not in refused.value.sentence
        folder.mkdir()
        database.insert([row("a")])
        assert pages(database, 10) == ["a"]


def test_a_file_that_is_no_database_is_refused_until_it_is_one(sqlite_url):
    file = Path(sqlite_url.removeprefix("sqlite:///"))
    file.write_text("Dear diary, " * 100)
    with closing(Database(sqlite_url)) as database:
        with pytest.raises(RequestError, match="file is not a database"):
            database.insert([row("a")])
        file.unlink()
        database.insert([row("a")])
        assert pages(database, 10) == ["a"]


def test_postgresql_that_is_not_there_is_refused_without_its_password(caplog):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with closing(Database(f"postgresql+psycopg://someone:hunter2@127.0.0.1:{port}/results")) as database:
        for _ in range(2):
            with pytest.raises(
                RequestError, match=r"^the database cannot be used \(no connection to PostgreSQL\): try again"
            ):
                database.insert([row("a")])
    assert len(caplog.messages) == 1  # told once, not with every request
    assert "hunter2" not in caplog.text


def letter(id: str, seconds: float = 0, **changes) -> dict:
    time = NOON + timedelta(seconds=seconds)
    return {"id": id, "time": time, "subject": "results", "request_id": "r", "reason": "junk", "body": b"", **changes}


def test_a_database_of_before_keeps_its_results_and_gets_the_other_tables(url):
    engine = sa.create_engine(url)
    RESULTS.create(engine)
    engine.dispose()
    with closing(Database(url)) as database:
        database.insert([row("a")])
        database.bury([letter("b")])
        database.claim([{"key": "c", "request": "d"}])
        assert pages(database, 10) == ["a"]
        assert [letter["id"] for letter in database.dead_letters(10)[0]] == ["b"]


def test_a_dead_letter_is_kept_once_with_all_its_bytes(database):
    body = bytes(range(256)) * 16_000
    database.bury([letter("a", body=body), letter("b", 1, reason="second")])
    database.bury([letter("b", 1, reason="other"), letter("c", 2)])
    letters, following = database.dead_letters(10, shown=300)
    assert [(letter["id"], letter["reason"], letter["size"]) for letter in letters] == [
        ("c", "junk", 0),
        ("b", "second", 0),
        ("a", "junk", len(body)),
    ]
    assert (letters[2]["body"], letters[2]["time"], following) == (body[:300], NOON, None)
    assert database.dead_letters(10, shown=len(body))[0][2]["body"] == body


def test_a_page_of_dead_letters_begins_after_the_one_that_is_named(database):
    database.bury([letter(f"{number}", seconds=number // 3) for number in range(7)])
    assert [letter["id"] for letter in database.dead_letters(3)[0]] == ["6", "5", "4"]
    assert database.dead_letters(3)[1] == "4"
    letters, following = database.dead_letters(4, before="4")
    assert ([letter["id"] for letter in letters], following) == (["3", "2", "1", "0"], None)
    with pytest.raises(RequestError, match="^before: there is no dead letter with the id nowhere$"):
        database.dead_letters(3, before="nowhere")


def test_a_key_is_claimed_for_one_request_and_stays_so_after_a_restart(database, url):
    database.claim([{"key": "a", "request": "1"}, {"key": "b", "request": "2"}])
    database.claim([{"key": "a", "request": "1"}])
    with closing(Database(url)) as restarted:
        with pytest.raises(AlreadyClaimed):
            restarted.claim([{"key": "c", "request": "3"}, {"key": "a", "request": "2"}])
        restarted.claim([{"key": "c", "request": "4"}])  # with the other one, it was not committed
        with pytest.raises(AlreadyClaimed):
            restarted.claim([{"key": "d", "request": "1"}, {"key": "d", "request": "2"}])


def test_a_claim_is_forgotten_after_a_day(database, monkeypatch):
    assert timedelta(days=1) == storage.CLAIMED
    database.claim([{"key": "a", "request": "1"}])
    with pytest.raises(AlreadyClaimed):
        database.claim([{"key": "a", "request": "2"}])
    monkeypatch.setattr(storage, "CLAIMED", timedelta(0))
    database.claim([{"key": "b", "request": "1"}, {"key": "a", "request": "2"}])


def test_of_workers_that_claim_a_key_at_once_one_gets_it(database, url):
    with closing(Database(url)) as other, ThreadPoolExecutor(2) as pool:
        for turn in range(20):
            claims = [[{"key": f"{turn}", "request": f"{number}"}] for number in range(2)]
            claiming = [pool.submit(database.claim, claims[0]), pool.submit(other.claim, claims[1])]
            failures = {type(claimed.exception(20)) for claimed in claiming}
            assert failures == {type(None), AlreadyClaimed}
