"""The URLs of the services: which schemes a setting may have, and what each transport reads from a URL."""

from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from pydantic import AnyUrl, TypeAdapter, ValidationError

PREPROCESS_SCHEMES = ("http", "https")
INFERENCE_SCHEMES = ("http", "https", "grpc")
STORAGE_SCHEMES = ("http", "https", "nats")

URL = TypeAdapter(AnyUrl)


class GrpcTarget(NamedTuple):
    """Where a gRPC channel connects: one name, or IP addresses."""

    text: str  # as gRPC writes it
    is_name: bool
    addresses: int


class NatsServers(NamedTuple):
    """The brokers of a cluster, or one, and the login for all of them."""

    urls: list[str]  # without the login: these may be shown
    user: str | None
    password: str | None
    token: str | None


def split_urls(urls: str) -> list[str]:
    """Return the URLs of a setting, which are separated by commas."""
    return [url.strip().rstrip("/") for url in urls.split(",")]


def transport_of(urls: str) -> str:
    """Return the transport that URLs ask for: http (https included), grpc or nats."""
    scheme = urls.strip().partition(":")[0].lower()
    return "http" if scheme == "https" else scheme


def check_urls(urls: str, schemes: tuple[str, ...]) -> str:
    """Return `urls` unchanged. ValueError says why they cannot be used; it does not show them."""
    try:
        found = [URL.validate_python(url) for url in split_urls(urls)]
    except ValidationError:
        found = []
    if not found or any(url.scheme not in schemes or not url.host for url in found):
        raise ValueError(f"write {' or '.join(f'{scheme}://HOST:PORT' for scheme in schemes)}")
    if any((url.username or url.password) and url.scheme != "nats" for url in found):
        raise ValueError("no user and no password: GET /services shows the URL")
    if len({transport_of(url.scheme) for url in found}) > 1:
        raise ValueError("all URLs of a service must use the same transport")
    if transport_of(urls) == "grpc":
        read_grpc_target(urls)
    if transport_of(urls) == "nats":
        read_nats_servers(urls)
    return urls


def read_grpc_target(urls: str) -> GrpcTarget:
    """Return the target of a channel. ValueError unless `urls` are one name, or IP addresses of one version."""
    parts = [urlsplit(url) for url in split_urls(urls)]
    if not all(part.port for part in parts):
        raise ValueError("a port is needed: grpc://HOST:PORT")
    kind, *others = {_kind_of_host(part.hostname or "") for part in parts}
    if others or (kind == "dns" and len(parts) > 1):
        raise ValueError("several URLs must have IP addresses, all of version 4 or all of version 6")
    slashes = "///" if kind == "dns" else ""
    return GrpcTarget(f"{kind}:{slashes}{','.join(part.netloc for part in parts)}", kind == "dns", len(parts))


def _kind_of_host(host: str) -> str:
    """What gRPC calls the kind of a host: ipv4, ipv6, or dns for a name."""
    try:
        return f"ipv{ip_address(host).version}"
    except ValueError:
        return "dns"


def read_nats_servers(urls: str) -> NatsServers:
    """Return the brokers and the login. ValueError if a URL has a path, or if the URLs have different logins."""
    parts = [urlsplit(url) for url in split_urls(urls)]
    if any(part.path or part.query or part.fragment for part in parts):
        raise ValueError("write nats://HOST:PORT or nats://USER:PASSWORD@HOST:PORT; write %23 for a # in them")
    (user, password), *others = {(part.username, part.password) for part in parts}
    if others:
        raise ValueError("all URLs of a cluster must have the same user and password")
    shown = [f"nats://{part.netloc.rpartition('@')[2]}" for part in parts]
    if password is None:  # nats://TOKEN@HOST, or no login at all
        return NatsServers(shown, user=None, password=None, token=unquote(user) if user else None)
    return NatsServers(shown, user=unquote(user or ""), password=unquote(password), token=None)
