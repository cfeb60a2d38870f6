"""A service that starts without its model, and says so."""

from types import SimpleNamespace

from flask import Flask, request

notebook = "01_flask"
minutes = 15
hints = [
    "Try to load the model before the routes are declared. If that fails, what do the routes have to know later?",
    "Keep two names: `model`, which is None if it could not be loaded, and `problem`, the text of the error.",
    'A route of Flask may return a pair: `return {"error": problem}, 503`. /livez needs neither of the two names.',
]


def stub(load):
    """Return a Flask app with /livez, /readyz and /inferir. load() returns the model, or raises an OSError."""
    app = Flask("digits")
    model = load()

    @app.get("/livez")
    @app.get("/readyz")
    def status():
        return {"status": "fine"}

    @app.post("/inferir")
    def inferir():
        return {"prediction": model.predict([request.get_json()["features"]])}

    return app


def solution(load):
    """The error is kept, not raised: a process that ends is started again for ever, and can tell nobody why.

    /livez asks about the process, and a restart would not bring the model back. So it never looks at the model. The
    two other routes need the model, and give the same reason. The model is loaded once, not at each probe.
    """
    app = Flask("digits")
    model, problem = None, ""
    try:
        model = load()
    except OSError as error:
        problem = str(error)

    @app.get("/livez")
    def livez():
        return {"status": "alive"}

    @app.get("/readyz")
    def readyz():
        return {"status": "ready"} if model else ({"error": problem}, 503)

    @app.post("/inferir")
    def inferir():
        if not model:
            return {"error": problem}, 503
        return {"prediction": model.predict([request.get_json()["features"]])}

    return app


def serve(load, *, livez=200, readyz=503, inferir=503, reason=True):
    """An answer that gives these statuses while there is no model."""
    app = Flask("digits")
    model, problem = None, ""
    try:
        model = load()
    except OSError as error:
        problem = str(error) if reason else "not ready"

    def answer(status, body):
        return body if model else ({"error": problem}, status)

    app.get("/livez")(lambda: answer(livez, {}))
    app.add_url_rule("/readyz", "readyz", lambda: answer(readyz, {}))
    app.add_url_rule("/inferir", "inferir", lambda: answer(inferir, {"prediction": [7]}), methods=["POST"])
    return app


def ends_at_once(load):
    model = load()
    return serve(lambda: model)


def restarts_for_ever(load):
    return serve(load, livez=503)


def says_it_is_ready(load):
    return serve(load, readyz=200)


def keeps_the_reason(load):
    return serve(load, reason=False)


def blames_itself(load):
    return serve(load, inferir=500)


def loads_at_each_probe(load):
    app = solution(load)

    @app.before_request
    def load_again():
        try:
            load()
        except OSError:
            pass

    return app


wrong = [
    (ends_at_once, "ends as it starts"),
    (restarts_for_ever, "/livez"),
    (says_it_is_ready, "load balancer"),
    (keeps_the_reason, "why"),
    (blames_itself, "/inferir"),
    (loads_at_each_probe, "times"),
]


def check(honest_app):
    loads = []

    def load():
        loads.append(1)
        return SimpleNamespace(predict=lambda rows: [7])

    def fail():
        raise FileNotFoundError("model.pkl is not there")

    def ask(path):
        reply = client.open(path, method="POST" if path == "/inferir" else "GET", json={"features": [0] * 64})
        return reply.status_code, reply.text

    def forbid():
        raise PermissionError("model.pkl may not be read")

    try:
        honest_app(forbid)
        app = honest_app(fail)
    except OSError:
        return "without a model, the process ends as it starts. Let it start, and remember the reason."
    if not isinstance(app, Flask):
        return "return the Flask app."
    app.logger.disabled = True
    client = app.test_client()
    if ask("/livez")[0] != 200:
        return f"without a model, /livez is {ask('/livez')[0]}: the process is restarted, which brings no model."
    if ask("/readyz")[0] != 503:
        return f"without a model, the probe for readiness gets {ask('/readyz')[0]}: a load balancer acts on that."
    if "model.pkl is not there" not in ask("/readyz")[1]:
        return "the answer 503 does not say why: give the text of the error."
    if ask("/inferir")[0] != 503:
        return f"without a model, /inferir is {ask('/inferir')[0]}. Say 503: later the same request may succeed."
    if "model.pkl is not there" not in ask("/inferir")[1]:
        return "/inferir answers 503 and does not say why: give the text of the error there, too."

    client = honest_app(load).test_client()
    answers = [ask(path)[0] for path in ("/livez", "/readyz", "/readyz", "/inferir")]
    if answers != [200] * 4 or "[7]" not in ask("/inferir")[1].replace("\n", "").replace(" ", ""):
        return "with a model in order, everything should be 200, and the answer {'prediction': [7]}."
    if len(loads) > 1:
        return f"for five requests, the model was loaded {len(loads)} times. A real one takes seconds: load it once."
    return ""
