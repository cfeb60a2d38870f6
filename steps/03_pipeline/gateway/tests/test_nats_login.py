"""The broker asks for a user and a password."""

import logging
import os
import re
import signal
import sys

import pytest
from brokers import wait_until
from queueing import UNREACHABLE, post

PERSON = "mé@er", "ge:he/im#"  # and as they are in a URL:
LOGIN = "m%C3%A9%40er:ge%3Ahe%2Fim%23"


def allow(broker, name: str, password: str) -> None:
    broker.settings = [f'authorization {{user: "{name}", password: "{password}"}}']


def test_a_password_is_used_and_never_shown(open_gateway, absent_broker, caplog):
    caplog.set_level(logging.DEBUG)
    allow(absent_broker, *PERSON)
    absent_broker.start()
    gateway = open_gateway(storage_url=absent_broker.url.replace("//", f"//{LOGIN}@"))
    assert post(gateway)[1].startswith("the broker has no queue")  # says the broker
    services = gateway.get("/services")
    assert services.json()["storage"]["url"] == absent_broker.url
    absent_broker.kill()
    wait_until(lambda: post(gateway) == (False, UNREACHABLE))
    assert not re.search(r"ge\S{1,3}he\S{1,3}im", services.text + caplog.text)


def test_a_wrong_password_is_in_the_log_without_itself(open_gateway, absent_broker, caplog):
    allow(absent_broker, *PERSON)
    absent_broker.start()
    gateway = open_gateway(storage_url=absent_broker.url.replace("//", "//me:swordfish@"))
    assert post(gateway) == (False, UNREACHABLE)
    # Why: Authorization Violation, or a reset, if the broker has closed the connection before that is read.
    wait_until(lambda: "cannot be reached: " in caplog.text)
    assert "swordfish" not in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
def test_a_broker_that_turns_the_gateway_away_for_a_while_is_asked_again(open_gateway, absent_broker):
    allow(absent_broker, *PERSON)
    absent_broker.start()
    gateway = open_gateway(storage_url=absent_broker.url.replace("//", f"//{LOGIN}@"))
    wait_until(lambda: "queue" in post(gateway)[1])
    for name, why in (("you", "cannot be reached"), (PERSON[0], "queue")):
        allow(absent_broker, name, PERSON[1])
        absent_broker.configure()
        os.kill(absent_broker.process.pid, signal.SIGHUP)
        wait_until(lambda: why in post(gateway)[1])  # noqa: B023
