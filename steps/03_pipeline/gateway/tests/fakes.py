"""The services behind the gateway, played by small servers that can be slow, send nonsense, or be gone."""

import json
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FEATURES = [number % 17 for number in range(64)]
MODEL = {"version": "b5e7a46e61b8", "format": "pickle"}


def extract(body: bytes) -> tuple[int, dict]:
    return 200, {"features": FEATURES, "version": "v2"}


def predict(body: bytes) -> tuple[int, dict]:
    rows = len(json.loads(body)["features"])
    return 200, {"prediction": [3] * rows, "probabilities": [[0.1] * 10] * rows, "model": MODEL}


class Results:
    """What storage does with results and claims: it keeps the first result with an id."""

    def __init__(self):
        self.rows: dict[str, dict] = {}
        self.claims: dict[str, str] = {}
        self._lock = threading.Lock()

    def record(self, body: bytes) -> tuple[int, dict]:
        results = json.loads(body)["results"]
        with self._lock:
            before = len(self.rows)
            for result in results:
                self.rows.setdefault(result["id"], result)
            all_new = len(self.rows) - before == len(results)
        return 200, {"stored": len(results), "all_new": all_new}

    def claim(self, body: bytes) -> tuple[int, dict]:
        claim = json.loads(body)
        with self._lock:
            if self.claims.setdefault(claim["key"], claim["request"]) != claim["request"]:
                return 422, {"error": "this Idempotency-Key was used for another request"}
            found = [row for row in self.rows.values() if row["id"].partition(".")[0] == claim["id"]]
        return 200, {"claimed": True, "results": found}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128


class Fake:
    """A service that answers what `answers[path]` makes of a request's body, and remembers what it was asked."""

    def __init__(self, **answers):
        self.answers = {"/readyz": lambda body: (200, {"status": "ready"}), **answers}
        self.asked: list[tuple[str, dict, bytes]] = []
        self.connections = 0
        self._kept: list[socket.socket] = []
        self.port = 0
        self.start()

    def start(self) -> None:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self):
                super().setup()
                fake.connections += 1
                fake._kept.append(self.connection)

            def do_GET(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fake.asked.append((self.path, dict(self.headers), body))
                answer = fake.answers[self.path.partition("?")[0]](body)
                if answer is None:  # hang up
                    self.close_connection = True
                    return
                status, content = answer
                content = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET

            def log_message(self, *_):
                pass

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.01], daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Refuse new connections and cut the kept ones."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
        for connection in self._kept:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._kept.clear()

    def bodies(self, path: str) -> list[bytes]:
        return [body for asked, _, body in self.asked if asked == path]
