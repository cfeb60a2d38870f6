"""What tests ask of the service, and what they send to it."""

import json

JSON = {"Content-Type": "application/json"}


def stored(client, *results):
    return client.post("/results", json={"results": results})


def listed(client, query: str = "?limit=100") -> list[str]:
    return [result["id"] for result in client.get(f"/results{query}").json()["results"]]


def dead_letters(client) -> list[dict]:
    return client.get("/dead-letters?limit=100").json()["dead_letters"]


def is_ready(client) -> bool:
    return client.get("/readyz").status_code == 200


def count(client, name: str) -> float:
    """The value of a counter."""
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name}_total "))


def body(*results) -> bytes:
    """A message."""
    return json.dumps({"results": results}).encode()
