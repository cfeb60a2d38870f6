"""The contract of POST /inferir as a table: what goes in, what comes out. The same at every step."""

import hashlib
import io
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits

DIGITS, LABELS = load_digits(return_X_y=True)
JSON = {"Content-Type": "application/json"}
PNG = {"Content-Type": "image/png"}
FORM = {"Content-Type": "multipart/form-data; boundary=border"}
DRAWING = (Path(__file__).parent.parent / "steps" / "03_pipeline" / "sample_drawing.png").read_bytes()  # a 3
LIMIT = 1_000_000  # bytes in a body
NAN, INFINITY = float("nan"), float("inf")


def row_of(digit: int) -> list[float]:
    """A row of 64 features that any fit model reads as `digit`: the set's first."""
    return DIGITS[LABELS == digit][0].tolist()


def features(value, size: int = 0) -> bytes:
    """A request body, padded with blanks to `size` bytes."""
    return json.dumps({"features": value}).encode().ljust(size)


def blank() -> bytes:
    """A picture in which nothing is drawn."""
    file = io.BytesIO()
    Image.new("L", (28, 28), 255).save(file, "PNG")
    return file.getvalue()


def form(name: str, content: bytes) -> bytes:
    """A form with one file."""
    head = f'--border\r\nContent-Disposition: form-data; name="{name}"; filename="digit.png"\r\n\r\n'
    return head.encode() + content + b"\r\n--border--\r\n"


@dataclass
class Case:
    """One request and its answer. `since` is the number of the first step that this line of the contract binds."""

    name: str
    body: bytes
    status: int
    prediction: list[int] | None = None
    headers: dict[str, str] = field(default_factory=lambda: JSON)
    since: int = 1


CASES = [
    *(Case(f"a row of a {digit}", features(row_of(digit)), 200, [digit]) for digit in range(10)),
    Case("whole numbers", features([int(value) for value in row_of(3)]), 200, [3]),
    Case("a batch", features([row_of(7), row_of(1)]), 200, [7, 1], since=2),
    Case("a batch of one", features([row_of(7)]), 200, [7], since=2),
    Case("a body at the limit", features(row_of(4), LIMIT), 200, [4]),
    Case(
        "a charset beside the type", features(row_of(5)), 200, [5], {"Content-Type": "application/json; charset=utf-8"}
    ),
    Case("no body", b"", 400),
    Case("text", b"seven", 400),
    Case("JSON cut off", features(row_of(0))[:-1], 400),
    Case("bytes that are no text", bytes(range(256)), 400),
    Case("nesting without end", b"[" * 100_000, 400),
    Case("no features", b"{}", 422),
    Case("a list, not an object", json.dumps(row_of(0)).encode(), 422),
    Case("null for features", features(None), 422),
    Case("text for features", features("0" * 64), 422),
    Case("an object for features", features({str(place): 0 for place in range(64)}), 422),
    Case("an empty row or batch", features([]), 422),
    Case("a batch of an empty row", features([[]]), 422),
    Case("63 numbers", features(row_of(0)[:-1]), 422),
    Case("65 numbers", features([*row_of(0), 0]), 422),
    Case("ragged rows", features([row_of(0), row_of(1)[:-1]]), 422),
    Case("rows in rows", features([[row_of(0)]]), 422),
    Case("a number and a row", features([0, row_of(0)]), 422),
    Case("text for a number", features(["7", *row_of(0)[1:]]), 422),
    Case("null for a number", features([None, *row_of(0)[1:]]), 422),
    Case("true for a number", features([True, *row_of(0)[1:]]), 422),
    Case("NaN", features([NAN, *row_of(0)[1:]]), 422),
    Case("Infinity", features([INFINITY, *row_of(0)[1:]]), 422),
    Case("minus Infinity", features([-INFINITY, *row_of(0)[1:]]), 422),
    Case("more ink than there is", features([16.001, *row_of(0)[1:]]), 422),
    Case("less ink than none", features([-0.001, *row_of(0)[1:]]), 422),
    Case("a number of 5,000 digits", features(["9", *row_of(0)[1:]]).replace(b'"9"', b"9" * 5_000), 422),
    Case("a body over the limit", features(row_of(0), LIMIT + 1), 413),
    Case("a body far over the limit", features(row_of(0), 5 * LIMIT), 413),
    Case("a batch over 1,024 rows", features([row_of(0)] * 1_025), 413, since=2),
    Case("a form", b"features=0", 415, headers={"Content-Type": "application/x-www-form-urlencoded"}),
    Case("JSON called text", features(row_of(0)), 415, headers={"Content-Type": "text/plain"}),
    Case("no content type", features(row_of(0)), 415, headers={}),
    Case("a picture", DRAWING, 200, [3], PNG, since=3),
    Case("a picture in a form", form("image", DRAWING), 200, [3], FORM, since=3),
    Case("a picture cut off", DRAWING[:200], 400, headers=PNG, since=3),
    Case("text called a picture", b"seven", 400, headers=PNG, since=3),
    Case("text called a form", b"seven", 400, headers=FORM, since=3),
    Case("a blank picture", blank(), 422, headers=PNG, since=3),
    Case("a form without a picture", form("notes", DRAWING), 422, headers=FORM, since=3),
    Case("a picture over the limit", DRAWING.ljust(LIMIT + 1), 413, headers=PNG, since=3),
    Case("a picture of another kind", b"GIF89a", 415, headers={"Content-Type": "image/gif"}, since=3),
]


def break_model(folder: Path, how: str) -> None:
    """Make a model unfit to serve, in one of the three ways that the contract names."""
    pickle, manifest = folder / "model.pkl", folder / "manifest.json"
    if how == "missing":
        shutil.rmtree(folder)
    elif how == "tampered with":
        pickle.write_bytes(pickle.read_bytes() + b"one more byte")
    elif how == "of another scikit-learn":
        described = json.loads(manifest.read_text())
        version = described["scikit_learn"].encode()
        older = b"0" * (len(version) - 4) + b".1.2"  # as long as the version, or the pickle would be no pickle
        pickle.write_bytes(pickle.read_bytes().replace(version, older))
        changed = hashlib.sha256(pickle.read_bytes()).hexdigest()
        several = isinstance(described["sha256"], dict)  # one for each format of the model
        described["sha256"] = described["sha256"] | {"pickle": changed} if several else changed
        manifest.write_text(json.dumps(described))
