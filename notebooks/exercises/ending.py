"""How long must a pod wait before it ends, and how long may it take?"""

notebook = "04_kubernetes"
minutes = 5
hints = [
    "preStop goes first. Only after it, the program is told to end, and stops listening. Until then, it works on.",
    "The grace period is a clock that starts with preStop, not after it. When it has run out, the pod is killed.",
]


def stub(news, work):
    """Return two numbers of seconds: those of preStop, and terminationGracePeriodSeconds.

    Until `news` seconds after the order to end, clients send to the pod. A request takes up to `work` seconds.
    """
    return 5, 30


def solution(news, work):
    """A pod listens as long as somebody sends. The grace period counts from the same moment, so it covers both.

    The last request comes at `news` and needs `work`. Two seconds more at both are a reserve. Each minute more would be
    one that a drain of a machine may have to wait.
    """
    return news + 2, news + 2 + work + 2


def two_clocks(news, work):
    return news, work


def no_wait(news, work):
    return 0, news + work


def to_be_safe(news, work):
    return 3600, 7200


wrong = [
    (two_clocks, "the clock of the grace period"),
    (no_wait, "nobody listens"),
    (to_be_safe, "drain"),
]


def check(ending):
    for news, work in ((1, 10), (30, 2), (30, 60), (5, 300)):
        case = f"clients send for {news} s, and a request takes up to {work} s"
        pause, grace = ending(news, work)
        for sent in range(news + 1):
            if sent > pause:
                return (
                    f"{case}: a request that comes after {sent} s fails, since nobody listens any more after {pause} s."
                )
            if sent + work > grace:
                return (
                    f"{case}: a request that comes after {sent} s is cut off, since the pod is killed after {grace} s: "
                    "the clock of the grace period starts with preStop."
                )
        if pause > 2 * news + 30 or grace > 2 * (news + work) + 60:
            return f"{case}: no request fails, but a drain of the machine waits up to {grace} s for this pod."
    return ""
