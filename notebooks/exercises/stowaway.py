"""A pickle with a model in it that works, and with something else."""

import pickle
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

notebook = "00_train_and_pickle"
minutes = 30
hints = [
    "`__reduce__` returns a function and its arguments. The pickle loads into what that function returns: you need one "
    "that returns the classifier.",
    "Arguments are pickled too. If one of them is an object with a `__reduce__` of its own, its call runs on the way.",
    "Look into Python's module `operator`: which of its functions takes one thing out of several?",
]


def stub(classifier, path):
    """Return a pickle that loads into the classifier, and writes "hello" into the file `path` while it is loaded."""
    return pickle.dumps(classifier)


def solution(classifier, path):
    """Two calls, one inside the other: to build the arguments of the outer one, pickle has to make the inner one.

    What comes out is the classifier itself, so neither its answers nor its type say anything. Both classes are needed
    only to write the pickle: what it names is operator.getitem and Path.write_text, which every Python has.
    """
    import operator

    class Call:
        def __reduce__(self):
            return Path.write_text, (path, "hello")

    class Both:
        def __reduce__(self):
            return operator.getitem, ((Call(), classifier), 1)

    return pickle.dumps(Both())


def only_the_call(classifier, path):
    class Call:
        def __reduce__(self):
            return Path.write_text, (path, "hello")

    return pickle.dumps(Call())


def while_it_is_written(classifier, path):
    path.write_text("hello")
    return pickle.dumps(classifier)


class Carrier:
    def __init__(self, classifier, path):
        self.classifier, self.path = classifier, path

    def __setstate__(self, state):
        self.__dict__ = state
        self.path.write_text("hello")

    def predict(self, rows):
        return self.classifier.predict(rows)


def with_a_class_of_its_own(classifier, path):
    return pickle.dumps(Carrier(classifier, path))


wrong = [
    (only_the_call, "cannot predict"),
    (while_it_is_written, "before anybody"),
    (with_a_class_of_its_own, "another process"),
]


@cache
def trained():
    rows, labels = load_digits(return_X_y=True)
    return LogisticRegression(C=0.01, max_iter=20, tol=1).fit(rows[:300], labels[:300]), rows[300:]


def check(stowaway):
    class Elsewhere(pickle.Unpickler):
        def find_class(self, module, name):
            if module in ("__main__", stowaway.__module__):
                raise LookupError(name)
            return super().find_class(module, name)

    classifier, rows = trained()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "note.txt"
        pickled = stowaway(classifier, path)
        if not isinstance(pickled, bytes):
            return "return the pickle: bytes, as pickle.dumps() gives them."
        if path.exists():
            return "the file is there before anybody has loaded the pickle."
        (Path(folder) / "model.pkl").write_bytes(pickled)
        try:
            with (Path(folder) / "model.pkl").open("rb") as file:
                loaded = Elsewhere(file).load()
        except LookupError as error:
            return f"another process cannot load it: it has no class {error}. Name only what comes with a library."
        if not hasattr(loaded, "predict"):
            return f"it loads into {type(loaded).__name__}, which cannot predict: somebody would notice at once."
        if not np.array_equal(loaded.predict(rows), classifier.predict(rows)):
            return "what it loads into answers otherwise than the classifier."
        if not path.exists() or path.read_text() != "hello":
            return 'it works, but the file does not hold "hello" afterwards.'
    return ""
