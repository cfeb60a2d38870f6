"""Results to store."""

import json
from datetime import UTC, datetime, timedelta

import schemas

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def result(id: str = "one", seconds: float = 0, **changes) -> dict:
    """A result as the gateway sends it, `seconds` after noon."""
    return {
        "id": id,
        "request_id": f"request-{id}",
        "time": (NOON + timedelta(seconds=seconds)).isoformat(),
        "features": [number % 17 for number in range(64)],
        "prediction": 3,
        "probabilities": [0, 0, 0, 0.75, 0, 0, 0, 0.25, 0, 0],
        "model": {"version": "b5e7a46e61b8", "format": "pickle"},
        "preprocess": "v2",
        "timings_ms": {"preprocess": 2.1, "inference": 1.3},
        **changes,
    }


def row(*args, **changes) -> dict:
    """The same as a row of the table."""
    return schemas.Result.model_validate_json(json.dumps(result(*args, **changes))).to_row()


def letter(id: str, seconds: float = 0, **changes) -> dict:
    """A dead letter as a row of its table."""
    time = NOON + timedelta(seconds=seconds)
    return {"id": id, "time": time, "subject": "results", "request_id": "r", "reason": "junk", "body": b"", **changes}


def pages(database, limit: int, **where) -> list[str]:
    """The ids of all pages of results."""
    rows, before = database.newest(limit, **where)
    ids = [row["id"] for row in rows]
    while before:
        rows, before = database.newest(limit, before, **where)
        assert rows
        ids += [row["id"] for row in rows]
    return ids
