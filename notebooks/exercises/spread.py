"""Spread calls over replicas that come and go, behind a headless Service."""

import random
from collections import Counter

notebook = "04_kubernetes"
minutes = 30
hints = [
    "Keep three things between calls: the addresses, when you have asked for them, and whose turn it is. A function "
    "within a function can, by `nonlocal`; a class can, too.",
    "DNS may go on naming a replica that is gone. So for a while, skip a replica that has refused a call, whatever DNS "
    "says. That is a fourth thing to keep: who has refused, and when.",
    "A request that is refused can be sent to the next replica at once. It has failed only when all have refused it.",
]


def stub(lookup, call):
    """Return a function `ask(now)` that sends a request at the time `now`, in seconds, and returns its answer.

    `lookup()` asks DNS for the list of addresses. `call(address)` asks a replica, or raises ConnectionError.
    """
    addresses = lookup()

    def ask(now):
        return call(addresses[0])

    return ask


def solution(lookup, call):
    """In turn, with a list that is renewed every five seconds, and without those that have refused in the last thirty.

    This is round_robin of gRPC in small. The list is old by up to the age of DNS's cache, so it says where to try, not
    who is there: only a call tells. And if DNS does not answer, the old list is better than none.
    """
    addresses, asked, turn, refused = [], -5.0, 0, {}

    def ask(now):
        nonlocal addresses, asked, turn
        if now - asked >= 5:
            asked = now
            try:
                addresses = sorted(lookup())
            except OSError:
                pass
        usable = [each for each in addresses if now - refused.get(each, -30) >= 30] or addresses
        for _ in usable:
            turn += 1
            address = usable[turn % len(usable)]
            try:
                return call(address)
            except ConnectionError:
                refused[address] = now
        raise ConnectionError("no replica answers")

    return ask


def in_turn(lookup, call, every=float("inf"), careful=True, again=True, leave_out=0):
    """Ways to get it wrong: the list is never renewed, or each time; no care for DNS; no second try; no memory."""
    addresses, asked, turn, refused = lookup(), 0, 0, {}

    def ask(now):
        nonlocal addresses, asked, turn
        if now - asked >= every:
            asked = now
            try:
                addresses = sorted(lookup())
            except OSError:
                if not careful:
                    raise
        for _ in range(2 if again else 1):
            turn += 1
            usable = [each for each in addresses if now - refused.get(each, -leave_out) >= leave_out]
            address = usable[turn % len(usable)]
            try:
                return call(address)
            except ConnectionError:
                refused[address] = now
        raise ConnectionError(address)

    return ask


def list_of_the_start(lookup, call):
    return in_turn(lookup, call)


def ask_dns_each_time(lookup, call):
    return in_turn(lookup, call, every=0, leave_out=30)


def trust_dns(lookup, call):
    return in_turn(lookup, call, every=5, careful=False)


def no_second_try(lookup, call):
    return in_turn(lookup, call, every=5, again=False, leave_out=30)


def no_memory(lookup, call):
    return in_turn(lookup, call, every=5)


wrong = [
    (list_of_the_start, "the new replica"),
    (ask_dns_each_time, "asked DNS"),
    (trust_dns, "DNS did not answer"),
    (no_second_try, "although two others"),
    (no_memory, "again and again"),
]

NEW, DNS_FAILS, DNS_BACK, GONE, FORGOTTEN, END, RATE = 40, 50, 56, 80, 110, 130, 20


class Cluster:
    """Replicas a and b. c is new at 40 s, a is gone at 80 s. DNS has a cache: it names a until 110 s."""

    def __init__(self):
        self.now, self.lookups, self.refused = 0.0, 0, 0
        self.dice, self.answered = random.Random(0), []

    def lookup(self) -> list[str]:
        self.lookups += 1
        if DNS_FAILS <= self.now < DNS_BACK:
            raise OSError("DNS does not answer")
        known = ["a"] * (self.now < FORGOTTEN) + ["b"] + ["c"] * (self.now >= NEW)
        return self.dice.sample(known, len(known))

    def call(self, address: str) -> str:
        if address == "a" and self.now >= GONE:
            self.refused += 1
            raise ConnectionError(address)
        self.answered.append((self.now, address))
        return address

    def shares(self, begin: float, end: float) -> Counter:
        return Counter(address for at, address in self.answered if begin <= at < end)


def check(spread):
    cluster = Cluster()
    ask = spread(cluster.lookup, cluster.call)
    for number in range(END * RATE):
        cluster.now = number / RATE
        try:
            answer = ask(cluster.now)
        except ConnectionError:
            return "at 80 s, a replica goes, and a request fails, although two others would have answered it."
        except OSError:
            return "DNS did not answer for some seconds, and neither does your client. It knew addresses before."
        if answer not in ("a", "b", "c"):
            return f"ask(now) returns {answer!r}, not what `call` returns."
        if cluster.now == NEW - 1 and min(cluster.shares(0, NEW)[name] for name in "ab") < NEW * RATE * 0.3:
            shares = dict(sorted(cluster.shares(0, NEW).items()))
            return f"there are two replicas, a and b. In the first 39 s, this is how often each was asked: {shares}."
    share = cluster.shares(65, GONE)["c"] / ((GONE - 65) * RATE)
    if not 0.2 < share < 0.5:
        return f"at 40 s there is a third one. Half a minute later, the new replica gets {share:.0%} of the calls."
    if cluster.lookups > END / 2:
        return f"it has asked DNS {cluster.lookups} times in {END} s. Once in five seconds is enough."
    if cluster.refused > 20:
        return (
            f"DNS goes on naming the replica that went, from a cache. It was called again and again: {cluster.refused} "
            "times, and each time cost a client some time."
        )
    return ""
