"""The database when it is locked, full, missing, or gone."""

import socket
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from samples import pages, row

import database as storage
import pools
from chassis.errors import RequestError
from database import Database


def test_a_probe_leaves_nothing_behind(database):
    database.insert([])
    assert database.newest(10) == ([], None)
    assert database.count_by_model_version() == {}


def test_after_a_write_the_database_is_not_probed_for_a_second(database, monkeypatch):
    seconds, commits = 100.0, []
    monkeypatch.setattr(storage, "monotonic", lambda: seconds)
    database.insert([row("a")])
    sa.event.listen(database._writer, "commit", commits.append)
    # At each time, the rows of some inserts, and how many of those had to commit: a probe only if nothing was written
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


def test_after_a_failure_every_probe_is_made(sqlite_url, monkeypatch):
    monkeypatch.setattr(pools, "PATIENCE", 0.05)
    with closing(Database(sqlite_url)) as database:
        database.insert([])
        with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as other:
            other.execute("BEGIN IMMEDIATE")
            for rows in ([row("a")], [], []):
                with pytest.raises(RequestError, match="database is locked"):
                    database.insert(rows)
        database.insert([])


def test_connections_that_were_cut_are_opened_again(database, url):
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


def test_a_connection_to_postgresql_notices_a_machine_that_is_gone_also_while_it_waits(postgresql):
    """Nothing here takes the power off a machine, so this is what PostgreSQL's library was told."""
    with closing(Database(postgresql)) as database, database._writer.connect() as connection:
        told = connection.connection.dbapi_connection.info.get_parameters()
    seconds = [told[f"keepalives_{name}"] for name in ("idle", "interval", "count")]
    assert (told["tcp_user_timeout"], seconds) == ("2000", ["2", "1", "3"])


def test_readers_that_take_all_connections_are_refused_and_do_not_hinder_the_writer(url, monkeypatch, caplog):
    monkeypatch.setattr(pools, "PATIENCE", 1)
    with closing(Database(url)) as database:
        database.insert([row("a")])
        before = database._readers.pool, database._writer.pool
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
        assert (database._readers.pool, database._writer.pool) == before  # nothing was thrown away
        assert caplog.messages == []


def test_sqlite_that_another_program_locks_is_refused_and_still_read(sqlite_url, monkeypatch):
    monkeypatch.setattr(pools, "PATIENCE", 0.05)
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
            while True:  # a probe takes little room, so the last pages may still have some
                database.insert([row(f"more-{len(stored)}")])
                stored.append(f"more-{len(stored)}")
        assert sorted(pages(database, 100)) == sorted(stored)
        assert caplog.messages == [f"the database cannot be used: {problem}"]  # to read it proves nothing
        sa.event.remove(database._writer, "checkout", restrict)
        database.close()
        database.insert([row("back")])
        assert sorted(pages(database, 100)) == sorted([*stored, "back"])
    assert caplog.messages == [f"the database cannot be used: {problem}", "the database can be used again"]


def test_a_folder_that_is_missing_is_refused_until_it_is_there(tmp_path):
    folder = tmp_path / "later"
    with closing(Database(f"sqlite:///{folder.as_posix()}/results.db")) as database:
        for call in (lambda: database.insert([row("a")]), lambda: database.newest(1), database.count_by_model_version):
            with pytest.raises(RequestError, match=r"\(unable to open database file\)") as refused:
                call()
            assert str(tmp_path) not in refused.value.sentence
        folder.mkdir()
        database.insert([row("a")])
        assert pages(database, 10) == ["a"]


def test_a_file_with_other_content_is_refused_until_it_is_a_database(sqlite_url):
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
