"""Send rows to a gateway before a message broker, and look what became of them."""

ROW = {"json": {"features": [0.5] * 64}}
QUEUED, UNREACHABLE, LATE = "queued", "the broker cannot be reached", "the broker has not acknowledged it in time"


def post(gateway, **more) -> tuple:
    """Send a row; return what the reply says of storing it, and why."""
    reply = gateway.post("/inferir", **ROW, **more)
    assert (reply.status_code, reply.json()["prediction"]) == (200, [3]), reply.text
    return reply.json()["stored"], reply.json().get("storage")


def storage_health(gateway) -> tuple:
    health = gateway.get("/services").json()["storage"]
    return health["ready"], health["reason"]
