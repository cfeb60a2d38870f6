"""Free ports, and settings that name them."""

import itertools
import os
import random
import socket
from contextlib import suppress

# Below the ports that systems give to outgoing connections. No two are the same, nor ten apart, as inference has them.
# FREE_PORTS may name the first and the last, for tests that run side by side.
FIRST, LAST = map(int, os.environ.get("FREE_PORTS", "20000-29999").split("-"))
PORTS = itertools.cycle(random.sample(range(FIRST, LAST, 20), (LAST - FIRST) // 20))


def free_port() -> int:
    """A port that nothing listens on, and nothing ten below."""
    for port in PORTS:
        with socket.socket() as probe, socket.socket() as below, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            below.bind(("127.0.0.1", port - 10))
            return port
    raise AssertionError("PORTS has no end")


def free_settings() -> dict[str, str]:
    """Settings with free ports, for REST."""
    urls = {name: f"http://127.0.0.1:{free_port()}" for name in ("PREPROCESS_URL", "INFERENCE_URL", "STORAGE_URL")}
    return {"PORT": str(free_port()), **urls}


def free_wires() -> dict[str, str]:
    """Settings that replace some of those, for gRPC and a broker."""
    urls = {"INFERENCE_URL": "grpc", "STORAGE_URL": "nats", "STORAGE_HTTP_URL": "http"}
    return {setting: f"{scheme}://127.0.0.1:{free_port()}" for setting, scheme in urls.items()}


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
