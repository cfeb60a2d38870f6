"""The contract of POST /inferir as a table: what goes in, what comes out. The same at every step.

What the model takes and gives is read from a step's contract.py. CASES are those of the digits, pictures included.
"""

import hashlib
import io
import json
import runpy
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import requests
from PIL import Image
from pytest import approx
from sklearn.datasets import load_digits

DIGITS, LABELS = load_digits(return_X_y=True)
JSON = {"Content-Type": "application/json"}
CHARSET = {"Content-Type": "application/json; charset=utf-8"}
PNG = {"Content-Type": "image/png"}
FORM = {"Content-Type": "multipart/form-data; boundary=border"}
STEPS = Path(__file__).parent.parent / "steps"
DRAWING = (STEPS / "03_pipeline" / "sample_drawing.png").read_bytes()  # a 3
LIMIT = 1_000_000  # bytes in a body
NAN, INFINITY = float("nan"), float("inf")


def read_contract(step: Path) -> SimpleNamespace:
    """The names that a step's contract.py defines."""
    return SimpleNamespace(**runpy.run_path(str(step / "contract.py")))


def row_of(digit: int) -> list[float]:
    """A row of features that any model in order reads as `digit`: the data set's first."""
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
    prediction: list[int] | list[float] | list[str] | None = None
    headers: dict[str, str] = field(default_factory=lambda: JSON)
    since: int = 1


def cases_for(contract: SimpleNamespace, known: list[tuple[list[float], int | float | str]]) -> list[Case]:
    """The lines of the contract that concern any model. `known` are rows and what the model predicts for each."""
    (row, prediction), (row_2, prediction_2) = known[:2]
    size = len(row)
    cases = [
        *(Case(f"a row of {answer}", features(known_row), 200, [answer]) for known_row, answer in known),
        Case("a batch", features([row_2, row]), 200, [prediction_2, prediction], since=2),
        Case("a batch of one", features([row_2]), 200, [prediction_2], since=2),
        Case("a body at the limit", features(row, LIMIT), 200, [prediction]),
        Case("a charset beside the type", features(row), 200, [prediction], CHARSET),
        Case("no body", b"", 400),
        Case("text", b"seven", 400),
        Case("JSON cut off", features(row)[:-1], 400),
        Case("bytes that are not text", bytes(range(256)), 400),
        Case("a byte order mark", b"\xef\xbb\xbf" + features(row), 400),
        Case("UTF-16", features(row).decode().encode("utf-16"), 400),
        Case("UTF-16 without a byte order mark", features(row).decode().encode("utf-16-le"), 400),
        Case("UTF-32", features(row).decode().encode("utf-32"), 400),
        Case("nesting without end", b"[" * 100_000, 400),
        Case("no features", b"{}", 422),
        Case("a list, not an object", json.dumps(row).encode(), 422),
        Case("null for features", features(None), 422),
        Case("text for features", features("0" * size), 422),
        Case("an object for features", features({str(place): 0 for place in range(size)}), 422),
        Case("an empty row or batch", features([]), 422),
        Case("a batch of an empty row", features([[]]), 422),
        Case("a number too few", features(row[:-1]), 422),
        Case("a number too many", features([*row, 0]), 422),
        Case("ragged rows", features([row, row_2[:-1]]), 422),
        Case("rows in rows", features([[row]]), 422),
        Case("a number and a row", features([0, row]), 422),
        Case("text for a number", features(["7", *row[1:]]), 422),
        Case("null for a number", features([None, *row[1:]]), 422),
        Case("true for a number", features([True, *row[1:]]), 422),
        Case("NaN", features([NAN, *row[1:]]), 422),
        Case("Infinity", features([INFINITY, *row[1:]]), 422),
        Case("minus Infinity", features([-INFINITY, *row[1:]]), 422),
        Case("more than a float32 holds", features([1e39, *row[1:]]), 422),
        Case("less than a float32 holds", features([-1e39, *row[1:]]), 422),
        Case("a number of 5,000 digits", features(["9", *row[1:]]).replace(b'"9"', b"9" * 5_000), 422),
        Case("a body over the limit", features(row, LIMIT + 1), 413),
        Case("a body far over the limit", features(row, 5 * LIMIT), 413),
        Case("a batch over 1,024 rows", features([row] * 1_025), 413, since=2),
        Case("a form", b"features=0", 415, headers={"Content-Type": "application/x-www-form-urlencoded"}),
        Case("JSON called compressed", features(row), 415, headers=JSON | {"Content-Encoding": "gzip"}),
        Case("JSON called what it is", features(row), 200, [prediction], JSON | {"Content-Encoding": "identity"}),
        Case("JSON called text", features(row), 415, headers={"Content-Type": "text/plain"}),
        Case("no content type", features(row), 415, headers={}),
    ]
    if contract.HIGH is not None:
        cases.append(Case("a number over the range", features([contract.HIGH + 0.001, *row[1:]]), 422))
    if contract.LOW is not None:
        cases.append(Case("a number under the range", features([contract.LOW - 0.001, *row[1:]]), 422))
    return cases


CASES = [
    *cases_for(read_contract(STEPS / "01_flask"), [(row_of(digit), digit) for digit in range(10)]),
    Case("whole numbers", features([int(value) for value in row_of(3)]), 200, [3]),
    Case("a picture", DRAWING, 200, [3], PNG, since=3),
    Case("a picture in a form", form("image", DRAWING), 200, [3], FORM, since=3),
    Case("a picture cut off", DRAWING[:200], 400, headers=PNG, since=3),
    Case("text called a picture", b"seven", 400, headers=PNG, since=3),
    Case("text called a form", b"seven", 400, headers=FORM, since=3),
    Case("a blank picture", blank(), 422, headers=PNG, since=3),
    Case("a form without a picture", form("notes", DRAWING), 422, headers=FORM, since=3),
    Case("a picture over the limit", DRAWING.ljust(LIMIT + 1), 413, headers=PNG, since=3),
    Case("a picture called compressed", DRAWING, 415, headers=PNG | {"Content-Encoding": "gzip"}, since=3),
    Case("a picture of another kind", b"GIF89a", 415, headers={"Content-Type": "image/gif"}, since=3),
]


def check(case: Case, url: str) -> requests.Response:
    """Send the case to the service at `url` and compare the answer."""
    reply = requests.post(url + "/inferir", data=case.body, headers=case.headers, timeout=10)
    assert reply.status_code == case.status, reply.text
    assert reply.headers["Content-Type"] == "application/json"
    if case.status == 200:
        prediction = reply.json()["prediction"]
        # a regressor's float32 is not exactly what scikit-learn gave
        assert prediction == (
            approx(case.prediction, rel=1e-4) if isinstance(prediction[0], float) else case.prediction
        )
    else:
        check_error(reply)
    return reply


def check_error(reply: requests.Response) -> None:
    """Check that the body of an error is one sentence for a person."""
    assert list(reply.json()) == ["error"]
    sentence = reply.json()["error"]
    assert 10 <= len(sentence) <= 300 and "\n" not in sentence and "Traceback" not in sentence


def break_model(folder: Path, how: str) -> None:
    """Make a model unusable in one of the three ways that the contract names."""
    pickle, manifest = folder / "model.pkl", folder / "manifest.json"
    if how == "missing":
        shutil.rmtree(folder)
    elif how == "tampered with":
        pickle.write_bytes(pickle.read_bytes() + b"one more byte")
    elif how == "of another scikit-learn":
        described = json.loads(manifest.read_text())
        version = described["scikit_learn"].encode()
        older = b"0" * (len(version) - 4) + b".1.2"  # of the same length, or the pickle could not be read
        pickle.write_bytes(pickle.read_bytes().replace(version, older))
        changed = hashlib.sha256(pickle.read_bytes()).hexdigest()
        several = isinstance(described["sha256"], dict)  # one for each format of the model
        described["sha256"] = described["sha256"] | {"pickle": changed} if several else changed
        manifest.write_text(json.dumps(described))
