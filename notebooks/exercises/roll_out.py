"""Replace the containers of a service, also by an image that is broken."""

notebook = "04_docker"
minutes = 30
hints = [
    "One more, wait until it is healthy, then end an old one. `start_one_more` of roll.py, which you have seen, does "
    "the first half.",
    "There are three ways in which a new container is no good: it is unhealthy, it stays at starting for ever, or all "
    "was well with the first and the second fails.",
    "Whatever happens, end what you have started and what is not healthy, before you return False.",
]


def stub(service):
    """Replace each container by one of the new image. Return whether all are replaced."""
    for old in service.containers():
        service.end(old)
        service.start()
    return True


def solution(service):
    """At no moment fewer containers work than before, and at most one more runs: so it costs room for one.

    An old one ends when a new one is healthy, not before. So an image that is broken stops the rollout with its first
    container, and what worked goes on. And whoever waits for something sets a limit, or waits for ever.
    """
    for old in service.containers():
        new, waited = service.start(), 0
        while service.health(new) == "starting" and waited < 60:
            service.wait(1)
            waited += 1
        if service.health(new) != "healthy":
            service.end(new)
            return False
        service.end(old)
    return True


def all_at_once(service):
    old = service.containers()
    new = [service.start() for _ in old]
    while any(service.health(each) != "healthy" for each in new):
        service.wait(1)
    for each in old:
        service.end(each)
    return True


def wait_for_ever(service):
    for old in service.containers():
        new = service.start()
        while service.health(new) != "healthy":
            service.wait(1)
        service.end(old)
    return True


def wait_and_hope(service):
    for old in service.containers():
        service.start()
        service.wait(10)
        service.end(old)
    return True


def leave_it(service):
    for old in service.containers():
        new = service.start()
        service.wait(20)
        if service.health(new) != "healthy":
            return False
        service.end(old)
    return True


def never_stops_asking(service):
    new = service.start()
    while service.health(new) == "starting":
        pass
    return True


wrong = [
    (all_at_once, "at once"),
    (wait_for_ever, "waits for ever"),
    (wait_and_hope, "although the image is broken"),
    (leave_it, "is still there"),
    (never_stops_asking, "without a pause"),
]

REPLICAS, STARTS = 2, 3


class Stopped(Exception):
    """The sentence for the reader."""


class Service:
    """Two containers of the old image. What the answer may use: containers, start, health, wait, end."""

    def __init__(self, *outcomes: str):
        """`outcomes`: what becomes of each new container after three seconds. The last one holds for all others."""
        self.outcomes, self.now, self.asked = outcomes, 0.0, 0
        self.running = {f"old-{number}": ("healthy", 0.0) for number in range(1, REPLICAS + 1)}
        self.started, self.fewest, self.most = 0, REPLICAS, REPLICAS

    def containers(self) -> list[str]:
        """The names of those that run, oldest first."""
        return [*self.running]

    def start(self) -> str:
        """Start a container of the new image, and return its name."""
        self.started += 1
        outcome = self.outcomes[min(self.started, len(self.outcomes)) - 1]
        self.running[f"new-{self.started}"] = (outcome, self.now + STARTS)
        self.most = max(self.most, len(self.running))
        return f"new-{self.started}"

    def health(self, name: str) -> str:
        """starting, healthy or unhealthy"""
        self.asked += 1
        if self.asked > 10_000:
            raise Stopped("you ask for the health of a container again and again without a pause: `service.wait(1)`")
        outcome, since = self.running[name]
        return outcome if self.now >= since else "starting"

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now, self.asked = self.now + seconds, 0
        self.look()
        if self.now > 600:
            raise Stopped("a new container stays at starting or unhealthy, and your program waits for ever")

    def end(self, name: str) -> None:
        """Stop and remove a container."""
        del self.running[name]
        self.look()

    def look(self) -> None:
        self.fewest = min(self.fewest, sum(self.health(name) == "healthy" for name in self.running))


CASES = {
    "": ["healthy"],
    ", although the image is broken: its containers are unhealthy": ["unhealthy"],
    ", although the image is broken: its containers never get beyond starting": ["starting"],
    ", when the second container cannot start": ["healthy", "unhealthy"],
}


def check(roll_out):
    for case, outcomes in CASES.items():
        service = Service(*outcomes)
        try:
            replaced = roll_out(service)
        except Stopped as stop:
            return f"{stop}."
        service.look()
        if service.fewest < REPLICAS:
            return f"there was a moment with {service.fewest} healthy of {REPLICAS} containers{case}."
        if service.most > REPLICAS + 1:
            return f"{service.most} containers ran at once. At most one more than before is allowed."
        broken = [name for name in service.containers() if service.health(name) != "healthy"]
        if broken:
            return f"{broken[0]} is {service.health(broken[0])}, and it is still there when your program ends."
        if len(service.containers()) != REPLICAS:
            return f"in the end there are {len(service.containers())} containers, not {REPLICAS}{case}."
        if bool(replaced) != (outcomes == ["healthy"]):
            return f"it returns {replaced}{case}: True is for a rollout that has replaced all."
        if replaced and any(name.startswith("old") for name in service.containers()):
            return "it says that all are replaced, and an old one still runs."
    return ""
