import io
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter
from starlette.testclient import TestClient

import app
from settings import Settings

STEP = Path(app.__file__).parent


def draw_two(size: int, stroke: float = 0.08, edge: float = 0.15) -> np.ndarray:
    """Ink of a 2 with soft edges, 0 to 1, of shape (size, size). `stroke` and `edge` are parts of the size."""
    fine = 4 * size
    image = Image.new("L", (fine, fine))
    left, right, top, bottom = edge * 1.5 * fine, (1 - edge * 1.5) * fine, edge * fine, (1 - edge) * fine
    middle, radius = (left + right) / 2, (right - left) / 2
    angles = np.radians(np.linspace(-170, 35, 40))
    bow = [(middle + radius * np.cos(angle), top + radius * (1 + np.sin(angle))) for angle in angles]
    ImageDraw.Draw(image).line([*bow, (left, bottom), (right, bottom)], 255, round(stroke * fine), joint="curve")
    return np.asarray(image.reduce(4), dtype=np.float32) / 255


def photograph(ink: np.ndarray, seed: int, contrast=0.5, tilt=0.4, shadow=0.0, noise=4.0, quality=60) -> bytes:
    """A JPEG of ink on paper: the light comes from one side, with the edge of a shadow across, a bit out of focus."""
    rng = np.random.default_rng(seed)
    height, width = ink.shape
    ink = np.asarray(Image.fromarray(np.uint8(255 * ink)).filter(ImageFilter.GaussianBlur(1.5))) / 255
    y, x = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    light = 0.8 + tilt * (x * np.cos(angle) + y * np.sin(angle)) - 0.2 * (x * x + y * y)
    distance = x * np.cos(angle + 1) + y * np.sin(angle + 1) + rng.uniform(-0.2, 0.2)
    light *= 1 - shadow / (1 + np.exp(-80 * distance))
    grain = rng.uniform(0.7, 1, ink.shape)
    levels = 235 * light[..., None] * (1 - contrast * ink * grain)[..., None] * [1, 0.98, 0.93]
    levels += rng.normal(0, noise, levels.shape)
    return encode(Image.fromarray(levels.clip(0, 255).astype(np.uint8)), "JPEG", quality=quality)


def encode(image: Image.Image | np.ndarray, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG, with its length and its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of which the header is right and nothing else is there, so that it cannot be decoded."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


PNG = encode(np.uint8(255 * draw_two(28, stroke=0.1)))


def posted(client, content, kind: str = "image/png"):
    return client.post("/features", content=content, headers={"Content-Type": kind})


@pytest.fixture(scope="session")
def client():
    with TestClient(app.create_app(Settings())) as client:
        yield client


@pytest.fixture
def start():
    """A function that runs `python app.py` with some settings; what it has started is gone after the test."""
    running = []

    def start(**settings) -> "Server":
        running.append(Server(settings))
        return running[-1]

    yield start
    for server in running:
        server.end()


class Server:
    """A process of the service, its address, what it has printed as JSON (`log`) and otherwise (`other`)."""

    def __init__(self, settings: dict):
        env = {**os.environ, **{name.upper(): str(value) for name, value in {"port": 0, **settings}.items()}}
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=STEP, env=env, text=True, start_new_session=True, **streams
        )
        self.log: list[dict] = []
        self.other: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        with deadline(60) as left:
            while not self.said("Uvicorn running"):
                assert self.process.poll() is None and left(), (self.log, self.other)
                time.sleep(0.02)
        self.address = self.said("Uvicorn running")[0].split()[3].removeprefix("http://")

    def said(self, beginning: str) -> list[str]:
        return [line["message"] for line in self.log if line["message"].startswith(beginning)]

    def ask_to_leave(self) -> bool:
        """Send SIGTERM and wait until it has ended. False where there is no such thing: on Windows."""
        if os.name == "nt":
            return False
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)
        self._reader.join(10)
        return True

    def end(self) -> None:
        with suppress(ProcessLookupError):
            if os.name == "nt":
                self.process.kill()
            else:
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        self._reader.join(10)
        self.process.stdout.close()

    def _read(self) -> None:
        for line in self.process.stdout:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.other.append(line)


@contextmanager
def deadline(seconds: float):
    """A function that tells whether there is time left."""
    end = time.monotonic() + seconds
    yield lambda: time.monotonic() < end
