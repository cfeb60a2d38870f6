"""What is left of a deadline for the next call?"""

import math

notebook = "03_pipeline"
minutes = 5
hints = [
    "Three services, but not three equal parts: a part that nobody used is lost. Think of a moment when it all has to "
    "be over, and ask how far away that is.",
    "For storage that moment is 2.0 seconds after the start. For the two before it, it is half a second earlier.",
    "What is left can be less than nothing, if the process itself was held up.",
]


def stub(service, gone):
    """Return the timeout of the next call in seconds, when `gone` seconds of the two have gone.

    `service` is "preprocess", "inference" or "storage".
    """
    return 2.0


def solution(service, gone):
    """A deadline is a moment, and a timeout is a length: what is left until that moment.

    So a fast preprocess leaves its time to inference, and the whole cannot take longer than two seconds, however many
    services there are. Storage is asked last. It would get nothing if the others could use up all of the time.
    """
    until = 2.0 if service == "storage" else 1.5
    return max(0, until - gone)


def equal_parts(service, gone):
    return {"preprocess": 0.75, "inference": 0.75, "storage": 0.5}[service]


def nothing_for_storage(service, gone):
    return max(0, 2.0 - gone)


def never_late(service, gone):
    return (2.0 if service == "storage" else 1.5) - gone


def at_least_something(service, gone):
    return max(0.5, 2.0 - gone) if service == "storage" else max(0, 1.5 - gone)


wrong = [
    (at_least_something, "2.5 seconds have gone"),
    (equal_parts, "gives up"),
    (nothing_for_storage, "nothing left for storage"),
    (never_late, "negative"),
]


def check(share_deadline):
    gone, timeouts = ask(share_deadline, math.inf, math.inf, math.inf)
    if min(timeouts.values()) < 0:
        return negative(timeouts)
    if gone > 2.01:
        return f"if all three hang, the request takes {gone:g} seconds."
    if timeouts["storage"] < 0.5 - 1e-9:
        return "if preprocess or inference hangs, there is nothing left for storage, or less than half a second."
    for took in ((1.4, 0.05, 0.05), (0.05, 1.4, 0.05), (0.7, 0.7, 0.4)):
        _, timeouts = ask(share_deadline, *took)
        for (service, timeout), seconds in zip(timeouts.items(), took, strict=True):
            if timeout < seconds:
                return f"the calls take {took} seconds, which is in time, but it gives up {service} after {timeout:g}."
    late = {service: share_deadline(service, 2.5) for service in timeouts}
    if max(late.values()) > 0:
        return "2.5 seconds have gone, and it still gives a service some time: the whole takes longer than two seconds."
    return negative(late) if min(late.values()) < 0 else ""


def ask(share_deadline, *took):
    """Ask services that take so long. Return when it was over, and the timeouts by name."""
    gone, timeouts = 0.0, {}
    for service, seconds in zip(("preprocess", "inference", "storage"), took, strict=True):
        timeouts[service] = share_deadline(service, gone)
        gone += min(seconds, max(timeouts[service], 0))
    return gone, timeouts


def negative(timeouts):
    service = min(timeouts, key=timeouts.get)
    return f"the timeout of {service} can be negative ({timeouts[service]:g}), which most clients refuse with an error."
