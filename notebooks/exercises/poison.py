"""Break a consumer: one message that it can neither store nor get rid of."""

import json
import sqlite3

notebook = "03_wires"
minutes = 5
hints = [
    "The consumer is ready for a body that is not JSON. What does it expect of a body that is?",
    'JSON can be a number, a list, or an object without the key "id". Which of these gets past `json.loads`, and not '
    "past the next line?",
]


def stub():
    """Return the body of a message, as bytes."""
    return b'{"id": "a", "prediction": 7}'


def solution():
    """It is JSON, so nothing sets it aside, and it has no id, so the consumer raises KeyError before it acknowledges.

    The broker delivers it again, and the next consumer dies of it too. A consumer must be able to get rid of whatever a
    publisher can send: it checks the whole body against a schema, and puts what does not fit among the dead letters.
    """
    return b"{}"


def not_json():
    return b'{"id": "half a resu'


def stored_before():
    return b'{"id": "first", "prediction": 8}'


def text():
    return '{"prediction": 7}'


wrong = [
    (not_json, "throws it away"),
    (stored_before, "skips it"),
    (text, "bytes"),
]


def consume(data, database):
    """Return when the message would be acknowledged."""
    try:
        result = json.loads(data)
    except ValueError:
        return "it is not JSON, so the consumer throws it away and goes on."
    row = result["id"], result["prediction"]
    new = database.execute("INSERT INTO results VALUES (?, ?) ON CONFLICT DO NOTHING", row).rowcount
    database.commit()
    return "the consumer stores it." if new else "its id is in the table already, so the consumer skips it and goes on."


def check(poison):
    body = poison()
    if not isinstance(body, bytes):
        return f"a message is made of bytes, and this is of the type {type(body).__name__}."
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE results (id TEXT PRIMARY KEY, prediction INTEGER)")
    database.execute("INSERT INTO results VALUES ('first', 7)")
    try:
        return consume(body, database)
    except Exception:  # the consumer dies before it has acknowledged, at each delivery
        return ""
    finally:
        database.close()
