"""A probe that kills: three probes for a service that starts slowly, whose database goes away, and that hangs once."""

from collections.abc import Callable

import yaml

notebook = "04_kubernetes"
minutes = 15
hints = [
    "Which of /livez and /readyz still answers 200 when only the database is away? And is a restart of any use then?",
    "A startupProbe gives the start its own time: until it has succeeded, nobody asks the other two questions. After "
    "failureThreshold times periodSeconds, it gives up.",
    "Without a number, periodSeconds is 10 and failureThreshold 3. So a hanging service is noticed after 30 s.",
]


def stub():
    """Return the probes of a container, as text of its manifest."""
    return """
livenessProbe: {httpGet: {path: /readyz, port: http}, periodSeconds: 5}
readinessProbe: {httpGet: {path: /readyz, port: http}, periodSeconds: 5}
"""


def solution():
    """Three questions. Has it started: up to two minutes. May it get requests: ask often. Does it live: ask patiently.

    Liveness asks /livez, which depends on nothing outside: when the database is away, a restart helps nobody. The
    startupProbe has the patience for the start. In the livenessProbe, it would be too long for a service that hangs.
    """
    return """
startupProbe: {httpGet: {path: /livez, port: http}, periodSeconds: 2, failureThreshold: 60}
readinessProbe: {httpGet: {path: /readyz, port: http}, periodSeconds: 2}
livenessProbe: {httpGet: {path: /livez, port: http}, periodSeconds: 10}
"""


def alive_is_ready():
    return solution().replace("livenessProbe: {httpGet: {path: /livez", "livenessProbe: {httpGet: {path: /readyz")


def no_start():
    return "\n".join(line for line in solution().splitlines() if not line.startswith("startup"))


def patient():
    return no_start().replace("periodSeconds: 10", "periodSeconds: 30, failureThreshold: 20")


def nervous():
    return solution().replace("periodSeconds: 10", "periodSeconds: 10, failureThreshold: 1")


def start_for_ever():
    return solution().replace("failureThreshold: 60", "failureThreshold: 100000")


def starts_when_ready():
    return solution().replace("startupProbe: {httpGet: {path: /livez", "startupProbe: {httpGet: {path: /readyz")


def never_unready():
    return "\n".join(line for line in solution().splitlines() if not line.startswith("readiness"))


wrong = [
    (alive_is_ready, "which does not bring the database back"),
    (starts_when_ready, "away while it starts"),
    (no_start, "still starting"),
    (patient, "hangs at 600 s"),
    (nervous, "did not answer for 10 s"),
    (start_for_ever, "never starts"),
    (never_unready, "gets requests"),
]

KINDS = ["startupProbe", "livenessProbe", "readinessProbe"]
NUMBERS = {"initialDelaySeconds": 0, "periodSeconds": 10, "failureThreshold": 3, "successThreshold": 1}


class Pod:
    """A container, and the kubelet that asks its probes, each second. `answers(path, age, now)` is its service."""

    def __init__(self, probes: dict, answers: Callable[[str, int, int], bool]):
        self.probes, self.answers = probes, answers
        self.restarts: list[int] = []  # when
        self.ready: list[bool] = []  # at each second
        self.begin(0)

    def begin(self, now: int) -> None:
        self.started_at, self.is_started = now, "startupProbe" not in self.probes
        self.is_ready = "readinessProbe" not in self.probes
        self.failures, self.successes = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)

    def live(self, seconds: int) -> "Pod":
        for now in range(seconds):
            for kind in KINDS if self.is_started else KINDS[:1]:
                if kind in self.probes:
                    self.ask(kind, now)
            self.ready.append(self.is_started and self.is_ready)
        return self

    def ask(self, kind: str, now: int) -> None:
        probe, age = NUMBERS | self.probes[kind], now - self.started_at
        if (kind == "startupProbe" and self.is_started) or age < probe["initialDelaySeconds"]:
            return
        if (age - probe["initialDelaySeconds"]) % probe["periodSeconds"]:
            return
        good = self.answers(probe["httpGet"]["path"], age, now)
        self.failures[kind] = 0 if good else self.failures[kind] + 1
        self.successes[kind] = self.successes[kind] + 1 if good else 0
        failed = self.failures[kind] >= probe["failureThreshold"]
        if kind == "readinessProbe":
            self.is_ready = not failed and (self.is_ready or self.successes[kind] >= probe["successThreshold"])
        elif failed:
            self.restarts.append(now)
            self.begin(now)
        elif kind == "startupProbe" and good:
            self.is_started = True


def check(probes):
    told = yaml.safe_load(probes())
    if not isinstance(told, dict) or {*told} - {*KINDS}:
        return f"the text has the keys {', '.join(KINDS)}, or some of them."
    for kind, probe in told.items():
        if unknown := {*probe} - {*NUMBERS, "httpGet", "timeoutSeconds"}:
            return f"{kind} has no {unknown.pop()} (here, all three use httpGet)."
        if probe.get("httpGet", {}).get("path") not in ("/livez", "/readyz"):
            return f"{kind} asks for {probe.get('httpGet', {}).get('path')}. The service has /livez and /readyz."

    def starts(path, age, now):  # it takes 60 s, since the machine is busy
        return age >= 60

    def loses_its_database(path, age, now):
        return age >= 10 and (path == "/livez" or not 600 <= now < 900)

    def starts_without_its_database(path, age, now):
        return age >= 10 and (path == "/livez" or now >= 300)

    def hangs(path, age, now):  # until it is started again
        return age >= 10 and (now < 600 or age < 500)

    def is_slow_once(path, age, now):
        return age >= 10 and not 598 <= now < 608

    slow, away, stuck = (Pod(told, each).live(1000) for each in (starts, loses_its_database, hangs))
    if slow.restarts:
        return f"it needs 60 s to start, and is started again after {slow.restarts[0]} s, while it is still starting."
    if any(slow.ready[:60]) or any(away.ready[640:900]):
        return "it gets requests while it starts, or while its database is away, and can only answer 503."
    if not slow.ready[100]:
        return "after 60 s it could work, and 40 s later it still gets no requests."
    if away.restarts:
        return (
            f"its database is away for 5 minutes: it is restarted {len(away.restarts)} times, which does not bring "
            "the database back, and slows its return."
        )
    if Pod(told, starts_without_its_database).live(1000).restarts:
        return "its database is away while it starts, and it is started again, again and again: that helps nobody."
    if not any(600 <= now <= 660 for now in stuck.restarts):
        return "it hangs at 600 s, answers nothing any more, and is not started again within a minute."
    if Pod(told, is_slow_once).live(1000).restarts:
        return "once, it did not answer for 10 s, on a busy machine, and is started again."
    if not Pod(told, lambda *_: False).live(1000).restarts:
        return "if it never starts (its program waits for something), nobody tries again within a quarter of an hour."
    return ""
