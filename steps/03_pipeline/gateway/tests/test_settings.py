"""Which URLs the settings take."""

import pytest
from pydantic import ValidationError

import grpc_client
from settings import Settings, read_settings


@pytest.mark.parametrize("url", ["127.0.0.1:8001", "ftp://127.0.0.1", "http://", "http://a,b", "http://me:secret@a"])
def test_an_invalid_url_is_refused(url):
    with pytest.raises(ValidationError):
        Settings(inference_url=url)


@pytest.mark.parametrize(
    ("urls", "target", "calls"),
    [
        ("grpc://127.0.0.1:8012", "ipv4:127.0.0.1:8012", 2),
        ("grpc://10.0.0.1:1, grpc://10.0.0.2:2/", "ipv4:10.0.0.1:1,10.0.0.2:2", 4),
        ("grpc://[::1]:8012,grpc://[fd00::1]:8012", "ipv6:[::1]:8012,[fd00::1]:8012", 4),
        ("GRPC://inference.svc:8012", "dns:///inference.svc:8012", 8),
    ],
)
def test_urls_tell_where_replicas_are(urls, target, calls):
    client = grpc_client.Inference(Settings(inference_url=urls).inference_url)
    assert (client.target, client.calls) == (target, calls)


@pytest.mark.parametrize(
    ("urls", "says"),
    [
        ("grpc://127.0.0.1", "a port is needed"),
        ("grpc://one:8012,grpc://two:8012", "IP addresses"),
        ("grpc://127.0.0.1:8012,grpc://[::1]:8012", "IP addresses"),
        ("http://127.0.0.1:8002,grpc://127.0.0.1:8012", "the same transport"),
    ],
)
def test_urls_that_no_channel_can_serve_are_refused(urls, says):
    with pytest.raises(ValidationError, match=says):
        Settings(inference_url=urls)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nats://me:swordfish@", "HOST:PORT"),
        ("nats://me:swordfish@a:port", "HOST:PORT"),
        ("nats://me:sword#fish@a", "HOST:PORT"),
        ("nats://me:swordfish@a/path", "HOST:PORT"),
        ("nats://me:swordfish@a,nats://b", "same user"),
        ("nats://a,http://b", "same transport"),
        ("http://me:swordfish@a", "no user"),
        ("http://:swordfish@a", "no user"),
    ],
)
def test_a_url_that_will_not_do_is_refused_without_its_password(monkeypatch, url, says):
    with pytest.raises(ValidationError) as refused:
        Settings(storage_url=url)
    assert says in str(refused.value) and "swordfish" not in str(refused.value)
    monkeypatch.setenv("STORAGE_URL", url)
    with pytest.raises(SystemExit) as ended:
        read_settings()
    assert str(ended.value).startswith("STORAGE_URL") and says in str(ended.value) and "fish" not in str(ended.value)


def test_a_user_is_for_the_broker_alone():
    assert Settings(storage_url="nats://me:swordfish@a, nats://me:swordfish@b:4223").storage_url
    with pytest.raises(ValidationError, match="HOST:PORT"):
        Settings(inference_url="nats://me:swordfish@a")


@pytest.mark.parametrize("seconds", ["0", "-1", "61", "soon"])
def test_the_time_to_connect_is_a_setting(monkeypatch, seconds):
    monkeypatch.setenv("CONNECT_SECONDS", "2.5")
    assert Settings().connect_seconds == 2.5
    monkeypatch.setenv("CONNECT_SECONDS", seconds)
    with pytest.raises(ValidationError, match="connect_seconds"):
        Settings()
