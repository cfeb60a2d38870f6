"""A service in a few lines. FAILS, UNREADY, STUBBORN and so on name the services that behave in that way."""

import json
import os
import signal
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NAME = Path(__file__).parent.name


def does(what: str) -> bool:
    return NAME in os.environ.get(what, "")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if does("UNREADY") else 200)
        self.end_headers()
        self.wfile.write(b'{"error": "the moon is in the way"}')

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ":" in os.environ["HOST"] else socket.AF_INET


print(json.dumps({NAME: {key: os.environ.get(key) for key in json.loads(os.environ.get("SHOWN", "[]"))}}))
if does("FAILS"):
    sys.exit("the disk is full")
if does("STUBBORN"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if does("WORKERS_OF"):
    print("worker", subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid)
if does("CHATTY"):
    line = 100 * NAME[0].encode() + b"\n"
    for _ in range(1000):
        os.write(1, line + b"x\xff" + b"\n" + line)
Server((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
