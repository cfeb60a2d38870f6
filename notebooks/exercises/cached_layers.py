"""A Dockerfile that installs everything again at each change of the code."""

import json
import re
from fnmatch import fnmatch

notebook = "04_docker"
minutes = 5
hints = [
    "A layer is made again if a file that its instruction copies has changed, or a layer before it. So which files "
    "does pip need, and which of them change every day?",
    "Two COPY instead of one: what pip needs, before pip runs; the rest after it. USER is an instruction, too.",
]


def stub():
    """Return the Dockerfile's text. The folder has app.py, features.py, requirements.lock and tests/."""
    return """
FROM python:3.13-slim
WORKDIR /service
COPY . .
RUN pip install --require-hashes --requirement requirements.lock
CMD ["python", "app.py"]
"""


def solution():
    """What changes most is copied last. pip's layer depends on requirements.lock alone, and stays in the cache.

    USER comes after pip, which has to write where only root may. A number needs no entry in /etc/passwd, and Kubernetes
    can see that it is not root's.
    """
    return """
FROM python:3.13-slim
WORKDIR /service
COPY requirements.lock .
RUN pip install --require-hashes --requirement requirements.lock
COPY *.py ./
USER 10001:10001
CMD ["python", "app.py"]
"""


def code_between():
    return solution().replace("COPY *.py ./\n", "").replace("RUN pip", "COPY *.py ./\nRUN pip")


def lock_too_late():
    return solution().replace("COPY requirements.lock .\n", "").replace("COPY *.py ./", "COPY . .")


def without_the_lock():
    return re.sub("RUN pip .*", "RUN pip install aiohttp numpy pillow", solution())


def as_root():
    return solution().replace("USER 10001:10001\n", "")


def one_file_forgotten():
    return solution().replace("*.py", "app.py")


def without_rights():
    return as_root().replace("RUN pip", "USER 10001:10001\nRUN pip")


wrong = [
    (without_rights, "USER comes after pip"),
    (code_between, "runs pip again"),
    (lock_too_late, "nothing has copied"),
    (without_the_lock, "other versions"),
    (as_root, "root"),
    (one_file_forgotten, "is not in the image"),
]

FILES = ["app.py", "features.py", "requirements.lock", "tests/test_app.py"]


def check(cached_layers):
    steps = parse(cached_layers())
    words = [word for word, _ in steps if word != "ARG"]
    if words[:1] != ["FROM"] or not {"CMD", "ENTRYPOINT"} & {*words}:
        return "the text needs at least FROM, as its first instruction, and CMD."
    at = next(
        (at for at, (word, rest) in enumerate(steps) if word == "RUN" and re.search(r"\bpip\b.* install\b", rest)), None
    )
    if at is None:
        return "no RUN installs anything by pip."
    if "requirements.lock" not in steps[at][1]:
        return "pip is not told to use requirements.lock, so that a build next month may install other versions."
    mounted = re.search(r"--mount=type=bind,\S*(source|src)=(\./)?requirements\.lock", steps[at][1])
    if not mounted and "requirements.lock" not in copied(steps[:at]):
        return "pip reads requirements.lock, and nothing has copied it into the image before."
    begin = max(number for number, (word, _) in enumerate(steps[:at]) if word == "FROM")
    if any(word == "USER" and rest.split(":")[0] not in ("root", "0") for word, rest in steps[begin:at]):
        return "pip runs as a user who may not write where it installs: USER comes after pip."
    stage = max(at for at, (word, _) in enumerate(steps) if word == "FROM")
    for name in ("app.py", "features.py"):
        if name not in copied(steps[stage:]):
            return f"{name} is not in the image."
        if made_again(steps, name)[at]:
            return f"a change of {name} runs pip again: it is copied before, or together with what pip needs."
    users = [rest for word, rest in steps[stage:] if word == "USER"]
    if not users or users[-1].split(":")[0] in ("root", "0"):
        return "the service runs as root: somebody who breaks in may write to all files of the container."
    return ""


def parse(text: str) -> list[tuple[str, str]]:
    """Instructions and what follows them, without comments."""
    lines = [line for line in text.strip().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\s*\n", " ", "\n".join(lines))
    pairs = [line.strip().partition(" ") for line in joined.splitlines()]
    return [(word.upper(), rest.strip()) for word, _, rest in pairs]


def sources(rest: str) -> list[str]:
    """What a COPY takes from the folder; from another stage, nothing."""
    options, _, listed = rest.rpartition("[")  # COPY may have a list of texts
    words = options.split() + json.loads(f"[{listed}") if rest.endswith("]") else rest.split()
    if any(word.startswith("--from=") for word in words):
        return []
    return [word.removeprefix("./") for word in words if not word.startswith("--")][:-1]


def takes(rest: str, name: str) -> bool:
    return any(source in (".", "") or fnmatch(name, source) for source in sources(rest))


def copied(steps: list[tuple[str, str]]) -> set[str]:
    return {name for name in FILES for word, rest in steps if word in ("COPY", "ADD") and takes(rest, name)}


def made_again(steps: list[tuple[str, str]], changed: str) -> list[bool]:
    """For each instruction, whether a change of the file runs it again: Docker's rules for its cache."""
    again, stages, dirty, name = [], {}, False, ""
    for word, rest in steps:
        if word == "FROM":
            name = rest.split()[-1]
            dirty = stages.get(rest.split()[0], False)
        elif word in ("COPY", "ADD"):
            origin = re.search(r"--from=(\S+)", rest)
            dirty = dirty or takes(rest, changed) or bool(origin and stages.get(origin[1]))
        stages[name] = dirty
        again.append(dirty)
    return again
