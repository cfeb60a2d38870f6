"""Spread calls over replicas behind a balancer of connections."""

notebook = "03_wires"
minutes = 15
hints = [
    "The balancer chooses a replica when you connect, and never again. So it can only spread connections.",
    "A new connection for each call would spread well, but it costs more than the call. Use a connection for some "
    "calls, then the next.",
    "The fourth replica can only be reached by a connection that is opened after it has started. So no connection may "
    "be kept for ever: servers have `max_connection_age` for that, and here you count the calls.",
]
CALLS, AT_MOST = 600, 30


def stub(connect, calls):
    """Make `calls` calls. `connect()` returns a connection, and its method `call()` makes a call."""
    connection = connect()
    for _ in range(calls):
        connection.call()


def solution(connect, calls):
    """A connection that is closed after 25 calls costs a 25th of a connection for each, and is never stuck for long.

    The next connection goes to the next replica, to new ones as well. gRPC's servers do the same by time: they close
    each connection at a certain age, MAX_CONNECTION_AGE_SECONDS in this pipeline. It needs no list of the replicas. A
    client that has the list, as round_robin in gRPC, spreads more evenly, since it chooses for each call.
    """
    for number in range(calls):
        if number % 25 == 0:
            connection = connect()
        connection.call()


def one_for_each_call(connect, calls):
    for _ in range(calls):
        connect().call()


def a_fixed_pool(connect, calls):
    pool = [connect() for _ in range(6)]
    for number in range(calls):
        pool[number % len(pool)].call()


def too_many_calls(connect, calls):
    stub(connect, calls)
    solution(connect, calls)


wrong = [
    (one_for_each_call, "connections are too many"),
    (a_fixed_pool, "the fourth replica"),
    (too_many_calls, "instead of"),
]


class Balancer:
    """Gives each new connection to the next replica. In the middle of the calls, a fourth replica starts."""

    def __init__(self):
        self.calls = [0] * 4
        self.connections = 0

    def connect(self):
        replicas = 3 if sum(self.calls) < CALLS / 2 else 4
        self.connections += 1
        return Connection(self, (self.connections - 1) % replicas)


class Connection:
    def __init__(self, balancer, replica):
        self._balancer, self._replica = balancer, replica

    def call(self):
        self._balancer.calls[self._replica] += 1


def check(spread_calls):
    balancer = Balancer()
    spread_calls(balancer.connect, CALLS)
    if sum(balancer.calls) != CALLS:
        return f"there were {sum(balancer.calls)} calls instead of {CALLS}."
    if balancer.connections > AT_MOST:
        return f"{balancer.connections} connections are too many: at most {AT_MOST} are allowed."
    *first, fourth = balancer.calls
    if min(first) < CALLS / 10:
        return f"the first three replicas got {first} calls: each should get at least {CALLS // 10}."
    if fourth < CALLS / 20:
        return (
            f"the fourth replica, which started after {CALLS // 2} calls, got {fourth} calls: {CALLS // 20} at least."
        )
    return ""
