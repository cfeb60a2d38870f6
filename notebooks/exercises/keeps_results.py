"""A compose.yaml that loses results."""

import re

import yaml

notebook = "04_docker"
minutes = 15
hints = [
    "`docker compose down` and `up` take every container away and make new ones. What stays is in volumes with a "
    "name, or in a folder of this machine. A tmpfs is memory.",
    "A named volume is written in two places: in the service, as `name:/path`, and in `volumes:` at the top level. The "
    "path is where the program writes.",
    'A port without an address is opened on all networks of this machine. "127.0.0.1:4222:4222" is this machine alone, '
    "and other containers need no port at all. For the third, see `x-contained` in compose.yaml of the step.",
]


def stub():
    """Return the text of compose.yaml, without its three mistakes."""
    return """
services:
  storage: {image: "storage:1.0", depends_on: [broker, database]}
  broker:
    image: nats:2-alpine
    command: --jetstream --store_dir /data
    ports: ["4222:4222"]
  database:
    image: postgres:17
    tmpfs: /var/lib/postgresql/data
"""


def solution():
    """Volumes with names outlive their containers. A program that has died is started again. A port is for others.

    Each of the two has a volume of its own, at the very path where it writes. The broker asks for no password, so no
    other machine may reach it; storage does, by the network that Compose makes.
    """
    return """
services:
  storage: {image: "storage:1.0", depends_on: [broker, database], restart: unless-stopped}
  broker:
    image: nats:2-alpine
    command: --jetstream --store_dir /data
    volumes: [queue:/data]
    restart: unless-stopped
  database:
    image: postgres:17
    volumes: [results:/var/lib/postgresql/data]
    restart: unless-stopped
volumes: {queue: , results: }
"""


def without_a_name():
    return solution().replace("[queue:/data]", "[/data]")


def not_declared():
    return solution().replace("queue: , ", "")


def one_folder_above():
    return solution().replace("postgresql/data]", "postgresql]")


def one_for_both():
    return solution().replace("results:/", "queue:/")


def still_in_memory():
    return solution().replace("volumes: [results:/var/lib/postgresql/data]", "tmpfs: /var/lib/postgresql/data")


def open_to_all():
    return solution().replace("  database:", '    ports: ["4222:4222"]\n  database:')


def never_again():
    return solution().replace("    restart: unless-stopped\n  database", "  database")


wrong = [
    (without_a_name, "has no name"),
    (not_declared, "top level"),
    (one_folder_above, "above"),
    (one_for_both, "both write"),
    (still_in_memory, "in memory"),
    (open_to_all, "every machine"),
    (never_again, "starts it again"),
]


def check(keeps_results):
    compose = yaml.safe_load(keeps_results()) or {}
    services = compose.get("services", {})
    if {*services} != {"storage", "broker", "database"}:
        return "the services are storage, broker and database, no other ones."
    store = re.search(r"(?:--store_dir|-sd)[= ](\S+)", command(services["broker"]))
    if not store:
        return "the broker's command does not say where it keeps its messages: --store_dir."
    kept = {}
    for name, path in (("broker", store[1]), ("database", "/var/lib/postgresql/data")):
        volume = next((source for source, target in mounts(services[name]) if target == path), None)
        if path in listed(services[name].get("tmpfs")):
            return f"what {name} writes to {path} is in memory: it goes with the container."
        if volume is None and any(path.startswith(f"{target}/") for _, target in mounts(services[name])):
            return f"the volume of {name} is mounted above {path}, where the image has one without a name of its own."
        if volume is None:
            return f"{name} writes to {path}. Nothing is mounted there, so `docker compose down` takes it away."
        if not volume:
            return f"the volume at {path} has no name, so the next container of {name} gets another one."
        if not volume.startswith((".", "/", "~")) and volume not in (compose.get("volumes") or {}):
            return f"the volume {volume} is missing in `volumes:` at the top level. Compose refuses the file."
        kept[name] = volume
    if kept["broker"] == kept["database"]:
        return f"the broker and the database both write into {kept['broker']}. Each needs one of its own."
    for name, service in services.items():
        if any(not is_local(port) for port in service.get("ports") or []):
            return f"every machine that reaches this one also reaches {name}, by its port. Who needs it?"
        if str(service.get("restart", "no")).split(":")[0] not in ("always", "unless-stopped", "on-failure"):
            return f"if {name} crashes, nobody starts it again."
    return ""


def command(service: dict) -> str:
    words = service.get("command", "")
    return words if isinstance(words, str) else " ".join(words)


def listed(value) -> list:
    return value if isinstance(value, list) else [value]


def mounts(service: dict) -> list[tuple[str, str]]:
    """(volume or folder, path in the container); "" for a volume without a name."""
    found = []
    for volume in service.get("volumes") or []:
        if isinstance(volume, dict):
            found.append((volume.get("source", ""), volume.get("target", "")))
        else:
            source, _, target = volume.partition(":")
            found.append((source, target.split(":")[0]) if target else ("", source))
    return [(source, target.rstrip("/")) for source, target in found]


def is_local(port) -> bool:
    host = port.get("host_ip", "") if isinstance(port, dict) else str(port).rpartition(":")[0].rpartition(":")[0]
    return host in ("127.0.0.1", "localhost", "[::1]")
