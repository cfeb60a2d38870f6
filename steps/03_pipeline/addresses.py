"""Where each process listens: PORT, PREPROCESS_URL, INFERENCE_URL, STORAGE_URL and STORAGE_HTTP_URL, with defaults."""

import argparse
import errno
import os
import re
import socket
import sys
from contextlib import ExitStack
from typing import NamedTuple, NoReturn
from urllib.parse import urlsplit

EXAMPLES = {  # what a setting looks like, by scheme; "http" is the default, --wires picks another
    "PORT": {"http": "8000"},
    "PREPROCESS_URL": {"http": "http://127.0.0.1:8001"},
    "INFERENCE_URL": {"http": "http://127.0.0.1:8002", "grpc": "grpc://127.0.0.1:8012"},
    "STORAGE_URL": {"http": "http://127.0.0.1:8003", "nats": "nats://127.0.0.1:4222"},
}
STORAGE_HTTP_URL = {"http": "http://127.0.0.1:8003"}  # only with a broker: then STORAGE_URL is the broker's
THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # listens on every address: we ask it on this one


class Address(NamedTuple):
    """Where one process listens: a host, and a port for each scheme that it speaks."""

    name: str  # the service; with a port behind it if there are several processes of it
    service: str
    setting: str = ""  # the environment variable that says where
    host: str = "127.0.0.1"
    ports: dict[str, int] = {}

    @property
    def local_host(self) -> str:
        return LOCAL.get(self.host, self.host)

    @property
    def urls(self) -> list[str]:
        host = f"[{self.local_host}]" if ":" in self.host else self.local_host
        return [f"{scheme}://{host}:{port}" for scheme, port in self.ports.items()]

    @property
    def environment(self) -> dict[str, str]:
        """The settings by which the process learns where to listen."""
        settings = {"HOST": self.host, "PORT": str(self.ports.get("http", 0))}
        return settings | ({"GRPC_PORT": str(self.ports["grpc"])} if "grpc" in self.ports else {})


def read_wires(names: str) -> list[str]:
    wires = names.split(",")
    if not {*wires} <= {"rest", "grpc", "nats"}:
        raise argparse.ArgumentTypeError(f"{names!r} should be one or several of rest,grpc,nats")
    return wires


def set_defaults(wires: list[str]) -> dict[str, str]:
    """Set what is not set, and return the setting of each service that says where it listens.

    Ends the program if a setting does not match a wire that was asked for.
    """
    for setting, examples in EXAMPLES.items():
        wanted = next((wire for wire in wires if wire in examples), "http")
        os.environ[setting] = os.environ.get(setting) or examples[wanted]
        if wires and read(setting)[0] != wanted:
            refuse(setting, f"with --wires {','.join(wires)} it should look like {examples[wanted]}")
    settings = {
        "gateway": "PORT",
        "preprocess": "PREPROCESS_URL",
        "inference": "INFERENCE_URL",
        "storage": "STORAGE_URL",
    }
    if read("STORAGE_URL")[0] == "nats":
        # The gateway sends results to the broker and asks storage for the history over HTTP.
        os.environ["STORAGE_HTTP_URL"] = os.environ.get("STORAGE_HTTP_URL") or STORAGE_HTTP_URL["http"]
        os.environ["NATS_URL"] = os.environ["STORAGE_URL"]  # where storage fetches from
        settings |= {"storage": "STORAGE_HTTP_URL", "broker": "STORAGE_URL"}
    return settings


def find_addresses(service: str, setting: str) -> list[Address]:
    """Return an address for each URL on this machine. A URL on another machine is not started here."""
    scheme, here = read(setting)
    if scheme == "nats" and "," in os.environ[setting]:
        print(f"{setting} names several brokers, a cluster. They are not started here.", flush=True)
        return []
    if scheme == "nats" and here and "@" in os.environ[setting]:
        refuse(setting, "the broker that is started here has no users: leave out the user and the password")
    addresses = []
    for host, port in here:
        name = f"{service}:{port}" if len(here) > 1 else service
        if service == "gateway":
            host = os.environ.get("HOST") or host
        # Inference with gRPC also answers HTTP, for /readyz and /metrics.
        ports = {"grpc": port, "http": port - 10} if scheme == "grpc" else {scheme: port}
        addresses.append(Address(name, service, setting, host, ports))
    return addresses


def read(setting: str) -> tuple[str, list[tuple[str, int]]]:
    """Return the scheme of a setting ("http" for https too), and the host and port of each URL on this machine.

    Ends the program if the setting cannot be read.
    """
    examples = EXAMPLES.get(setting, STORAGE_HTTP_URL)
    try:
        value = ("http://127.0.0.1:" if setting == "PORT" else "") + os.environ[setting]
        urls = [urlsplit(url.strip()) for url in value.split(",")]
        (scheme,) = {url.scheme.replace("https", "http") for url in urls}  # ValueError if there are two
        lowest = 11 if scheme == "grpc" else 1  # for gRPC there is a port for HTTP ten below
        here = [(url.hostname, url.port or 0) for url in urls if url.hostname in THIS_MACHINE]
        if scheme in examples and all(url.hostname for url in urls) and all(port >= lowest for _, port in here):
            return scheme, [(str(host), port) for host, port in here]
    except ValueError:  # also if a port is not a number
        pass
    refuse(setting, f"it should look like {' or '.join(examples.values())}")


def refuse(setting: str, why: str) -> NoReturn:
    value = re.sub("//.*@", "//...@", os.environ[setting])  # never print a password
    sys.exit(f"{setting} is {value!r}: {why}")


def require_free_ports(addresses: list[Address]) -> None:
    """End the program with a sentence if another program, or another of our processes, has one of the ports."""
    with ExitStack() as taken:  # keep each port until all are checked: two of ours may want the same one
        for name, _, setting, host, ports in addresses:
            for port in ports.values():
                try:
                    family = socket.AF_INET6 if ":" in host else socket.AF_INET
                    taken.enter_context(socket.create_server((host, port), family=family))
                except OSError as error:
                    why = str(error.strerror).partition(" (")[0]
                    unknown = isinstance(error.__context__, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
                    if unknown and setting == "PORT" and os.environ.get("HOST"):  # conda's compilers set HOST, too
                        refuse("HOST", f"this machine cannot listen there ({why}). Unset HOST, or set it to 127.0.0.1")
                    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                    sys.exit(f"{name} cannot listen on {where} ({why}): stop the program there, or change {setting}.")
