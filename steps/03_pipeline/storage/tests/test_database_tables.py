"""Dead letters and claims in the database, and databases that are older."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta

import pytest
import sqlalchemy as sa
from samples import NOON, letter, pages, row

import database as storage
from chassis.errors import RequestError
from database import AlreadyClaimed, Database
from tables import RESULTS


def test_a_database_without_the_newer_tables_gets_them_and_keeps_its_results(url):
    engine = sa.create_engine(url)
    RESULTS.create(engine)
    engine.dispose()
    with closing(Database(url)) as database:
        database.insert([row("a")])
        database.insert_dead_letters([letter("b")])
        database.claim([{"key": "c", "request": "d"}])
        assert pages(database, 10) == ["a"]
        assert [letter["id"] for letter in database.dead_letters(10)[0]] == ["b"]


def test_a_dead_letter_is_kept_once_with_all_its_bytes(database):
    body = bytes(range(256)) * 16_000
    database.insert_dead_letters([letter("a", body=body), letter("b", 1, reason="second")])
    database.insert_dead_letters([letter("b", 1, reason="other"), letter("c", 2)])
    letters, following = database.dead_letters(10, shown=300)
    assert [(letter["id"], letter["reason"], letter["size"]) for letter in letters] == [
        ("c", "junk", 0),
        ("b", "second", 0),
        ("a", "junk", len(body)),
    ]
    assert (letters[2]["body"], letters[2]["time"], following) == (body[:300], NOON, None)
    assert database.dead_letters(10, shown=len(body))[0][2]["body"] == body


def test_a_page_of_dead_letters_begins_after_the_one_that_is_named(database):
    database.insert_dead_letters([letter(f"{number}", seconds=number // 3) for number in range(7)])
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
    assert timedelta(days=1) == storage.CLAIM_AGE
    database.claim([{"key": "a", "request": "1"}])
    with pytest.raises(AlreadyClaimed):
        database.claim([{"key": "a", "request": "2"}])
    monkeypatch.setattr(storage, "CLAIM_AGE", timedelta(0))
    database.claim([{"key": "b", "request": "1"}, {"key": "a", "request": "2"}])


def test_of_workers_that_claim_a_key_at_once_one_gets_it(database, url):
    with closing(Database(url)) as other, ThreadPoolExecutor(2) as pool:
        for each in (database, other):  # one after the other: SQLite lets nobody else in while it switches to WAL
            each.insert([])
        for turn in range(20):
            claims = [[{"key": f"{turn}", "request": f"{number}"}] for number in range(2)]
            claiming = [pool.submit(database.claim, claims[0]), pool.submit(other.claim, claims[1])]
            failures = {type(claimed.exception(20)) for claimed in claiming}
            assert failures == {type(None), AlreadyClaimed}


def test_a_database_with_the_columns_of_an_older_version_is_refused_and_left_as_it_is(url, caplog):
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE results (id VARCHAR(64) PRIMARY KEY, prediction SMALLINT NOT NULL)")
        connection.exec_driver_sql("INSERT INTO results VALUES ('a', 7)")
    problem = "its tables are of an older version of storage: set DATABASE_URL to a new, empty database"
    with closing(Database(url)) as database:
        for call in (lambda: database.insert([row("b")]), lambda: database.insert([]), lambda: database.newest(1)):
            with pytest.raises(RequestError) as refused:
                call()
            assert refused.value.status == 503
            assert refused.value.sentence == f"the database cannot be used ({problem}): try again later"
        with engine.begin() as connection:
            assert sa.inspect(connection).get_table_names() == ["results"]
            assert connection.exec_driver_sql("SELECT * FROM results").all() == [("a", 7)]
            connection.exec_driver_sql("DROP TABLE results")
        engine.dispose()
        database.insert([row("b")])
    assert caplog.messages == [f"the database cannot be used: {problem}", "the database can be used again"]
