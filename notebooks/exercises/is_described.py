"""Are these bytes the file that the manifest describes?"""

import hashlib
import pickle

notebook = "00_train_and_pickle"
minutes = 5
hints = [
    "Whatever unpickles the bytes has run what is in them. hashlib only reads them: `hashlib.sha256(content)`.",
    "`.hexdigest()` gives the hash as text, as it stands in the manifest. `manifest.get` gives None for a missing key.",
]


def stub(content, manifest):
    """Return whether `content`, the bytes of a file, is what manifest["sha256"] describes. False if that is missing."""
    pickle.loads(content)
    return hash(content) == manifest["sha256"]


def solution(content, manifest):
    """Nothing of the file is used, not even to find out what it is: only its bytes are read.

    hash() is no help: it gives another number in each process, and is not made to resist anybody. The whole hash has to
    be the same, so == and not a comparison of its beginning.
    """
    return hashlib.sha256(content).hexdigest() == manifest.get("sha256")


def looks_first(content, manifest):
    return pickle.loads(content) is not None and solution(content, manifest)


def with_hash(content, manifest):
    return str(hash(content)) == manifest.get("sha256")


def by_the_beginning(content, manifest):
    return hashlib.sha256(content).hexdigest().startswith(manifest.get("sha256") or "none")


def trusts_the_manifest(content, manifest):
    return hashlib.sha256(content).hexdigest() == manifest["sha256"]


wrong = [
    (looks_first, "has run"),
    (with_hash, "is refused"),
    (by_the_beginning, "first half"),
    (trusts_the_manifest, "without the key"),
]

RUNS = []


def run():
    RUNS.append(1)


class Intruder:
    def __reduce__(self):
        return run, ()


def check(is_described):
    content = pickle.dumps(Intruder())
    sha256 = hashlib.sha256(content).hexdigest()
    RUNS.clear()
    answer = is_described(content, {"sha256": sha256})
    if RUNS:
        return "the bytes were unpickled, and the call that they contain has run. Compare first, and only compare."
    if not answer:
        return "the manifest holds the SHA-256 of these bytes, and the file is refused."
    if is_described(content[:-1] + b"?", {"sha256": sha256}):
        return "one byte of the file was changed, and it is accepted."
    if is_described(content, {"sha256": sha256[:32]}):
        return "the manifest holds only the first half of the hash, and the file is accepted."
    try:
        answer = is_described(content, {})
    except Exception as error:
        return f"a manifest without the key makes it raise {type(error).__name__}: that file is not described either."
    return "a manifest that says nothing accepts every file." if answer else ""
