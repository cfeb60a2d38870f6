"""Write a consumer that loses nothing and stores nothing twice, whenever it is killed."""

import contextlib
import json
import sqlite3
import tempfile
from pathlib import Path

from lab.mortal import Process

notebook = "03_wires"
minutes = 30
hints = [
    "The broker forgets a message when it is acknowledged. What has to be true before that?",
    "If the process dies after the commit and before the acknowledgement, the same message comes once more. The ids "
    "are a primary key: `ON CONFLICT DO NOTHING` skips what is there.",
    "A body that cannot be read comes back for ever. Put it into `dead_letters`, with a reason: commit, acknowledge.",
    "Which errors mean that the message is wrong? ValueError, KeyError and TypeError, while you read it. An error of "
    "the database says nothing about the message: let it out, and the message comes again.",
]
BODY = json.dumps({"results": [{"id": f"r{number}", "prediction": number} for number in range(3)]}).encode()
POISONS = {
    "half a message, which is not JSON,": b'{"results": [{"id": "half a resu',
    "JSON that is no object, 7,": b"7",
    'JSON without "results"': b"{}",
    "a result without an id": b'{"results": [{"prediction": 7}]}',
}


def stub(message, database):
    """Store the results in message.data: JSON, {"results": [{"id": "a", "prediction": 7}, ...]}."""
    message.ack()
    for result in json.loads(message.data)["results"]:
        row = result["id"], result["prediction"]
        database.execute("INSERT INTO results VALUES (?, ?)", row)
    database.commit()


def solution(message, database):
    """Each line is where it is because the process can die before it and after it.

    Read everything before anything is written: what is wrong with a message shows here. Commit before the
    acknowledgement, or a kill in between loses the results. A kill after the commit delivers the message again, which
    the primary key makes harmless. An error of the database is not caught: the message stays in the broker.
    """
    try:
        rows = [(result["id"], result["prediction"]) for result in json.loads(message.data)["results"]]
    except (ValueError, KeyError, TypeError) as error:
        database.execute("INSERT INTO dead_letters VALUES (?, ?)", (message.data, repr(error)))
    else:
        database.executemany("INSERT INTO results VALUES (?, ?) ON CONFLICT DO NOTHING", rows)
    database.commit()
    message.ack()


def acknowledge_first(message, database):
    message.ack()
    solution(message, database)


def insert(message, database, conflict="ON CONFLICT DO NOTHING"):
    for result in json.loads(message.data)["results"]:
        database.execute(f"INSERT INTO results VALUES (?, ?) {conflict}", (result["id"], result["prediction"]))


def plain_insert(message, database):
    insert(message, database, "")
    database.commit()
    message.ack()


def ignore_what_is_wrong(message, database):
    with contextlib.suppress(ValueError):
        insert(message, database)
    database.commit()
    message.ack()


def only_what_is_not_json(message, database):
    try:
        insert(message, database)
    except ValueError as error:
        database.execute("INSERT INTO dead_letters VALUES (?, ?)", (message.data, repr(error)))
    database.commit()
    message.ack()


def acknowledge_before_the_dead_letter(message, database):
    try:
        insert(message, database)
    except (ValueError, KeyError, TypeError) as error:
        message.ack()
        database.execute("INSERT INTO dead_letters VALUES (?, ?)", (message.data, repr(error)))
        database.commit()
    else:
        database.commit()
        message.ack()


def no_dead_letters(message, database):
    insert(message, database)
    database.commit()
    message.ack()


def every_error_is_a_dead_letter(message, database):
    try:
        insert(message, database)
    except Exception as error:
        database.execute("INSERT INTO dead_letters VALUES (?, ?)", (message.data, repr(error)))
    database.commit()
    message.ack()


wrong = [
    (acknowledge_first, "nothing of it is left"),
    (plain_insert, "IntegrityError"),
    (ignore_what_is_wrong, "nobody can look at it"),
    (only_what_is_not_json, "7, came. The consumer dies of it"),
    (acknowledge_before_the_dead_letter, "nobody will find the message"),
    (no_dead_letters, "which is not JSON, came. The consumer dies of it"),
    (every_error_is_a_dead_letter, "only locked for a moment"),
]


def check(store_message):
    with tempfile.TemporaryDirectory() as folder:
        paths = (create(Path(folder, f"{number}.db")) for number in range(100))
        for check_one in (check_delivery, check_kills, check_poison, check_outage):
            if sentence := check_one(store_message, paths):
                return sentence
    return ""


def check_delivery(store, paths):
    path = next(paths)
    process = Process(path, BODY)
    process.run(store)
    if count(path) != 3:
        return f"a message with three results came, and {count(path)} are in the table: is the commit missing?"
    return "" if process.acknowledged else "it is stored, and never acknowledged."


def check_kills(store, paths):
    for steps in range(20):
        path = next(paths)
        process = Process(path, BODY, steps)
        process.run(store)
        if not process.dead:
            break  # it has fewer steps
        try:
            if not process.acknowledged:
                Process(path, BODY).run(store)
        except sqlite3.IntegrityError:
            return f"it was killed after {process.last}, and at each delivery after that it raises an IntegrityError."
        if lost := 3 - count(path):
            left = "nothing of it is left" if lost == 3 else f"{lost} results are lost"
            return f"it was killed after {process.last}. The broker has deleted the message, and {left}."
    return ""


def check_poison(store, paths):
    for what, body in POISONS.items():
        for steps in (None, *range(6)):
            path = next(paths)
            process = Process(path, body, steps)
            try:
                process.run(store)
                if process.dead and not process.acknowledged:  # then it comes again
                    process = Process(path, body)
                    process.run(store)
            except (ValueError, KeyError, TypeError):
                return f"{what} came. The consumer dies of it, and it comes back for ever."
            if not process.acknowledged:
                return f"{what} came, and it was not acknowledged, so the broker sends it again and again."
            if process.dead and not count(path, "dead_letters"):
                return f"{what} came. It was killed after {process.last}, and nobody will find the message any more."
            if not count(path, "dead_letters"):
                return f"{what} came and was acknowledged, but it is not in dead_letters: nobody can look at it."
    return ""


def check_outage(store, paths):
    path = next(paths)
    process = Process(path, BODY, locked=True)
    with contextlib.suppress(sqlite3.Error):
        process.run(store)
    if process.acknowledged and not count(path):
        return "a good message was given up, and the database was only locked for a moment: do not acknowledge it."
    return ""


def create(path):
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE results (id TEXT PRIMARY KEY, prediction INTEGER)")
        database.execute("CREATE TABLE dead_letters (body BLOB, reason TEXT)")
    return path


def count(path, table="results"):
    with contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
