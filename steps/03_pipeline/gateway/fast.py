"""Answer simple routes without the rest of FastAPI. Optional: without FastPath everything works the same, only slower.

For each request FastAPI runs a stack of middleware, matches paths, opens exit stacks and solves dependencies. A small
request spends half of its time there, even if the application uses none of it. FastPath stands in front of an
application and calls the endpoint of a route itself, but only if nothing else of the framework would have run:

- the route takes POST at a fixed path, and no route or mount before it takes that path;
- its endpoint is an `async def` that takes at most one JSON body and the `Request`, and returns a `Response`;
- there is no dependency: not of a parameter, the route, its router or the application;
- there is no header, cookie, path or query parameter;
- the application has no middleware, no `max_body_size`, no `root_path` and no telemetry of its own.

It decides when the application starts, and logs which routes it serves and why it leaves others to FastAPI.

A request goes to FastAPI after all if its body is not valid JSON of the right type: FastAPI then finds the errors, and
the application's handler for RequestValidationError answers. An exception of the endpoint goes to the application's
exception handlers.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any, get_type_hints

import orjson
from fastapi import FastAPI, Request, Response, params
from fastapi.routing import APIRoute, APIRouter, APIWebSocketRoute, RouteContext, iter_route_contexts
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import Match, Mount, Route, WebSocketRoute
from starlette.types import ExceptionHandler, Message, Receive, Scope, Send

KNOWN_ROUTES = (APIRoute, APIWebSocketRoute, Mount, Route, WebSocketRoute)  # what they match depends on the path alone


@dataclass(frozen=True)
class FastRoute:
    """What it takes to call the endpoint of a route."""

    endpoint: Callable[..., Awaitable[Response]]
    request: str | None  # the name of the parameter that gets the Request
    body: str | None  # the name of the parameter that gets the body
    validate: Callable[[Any], tuple[Any, list[dict[str, Any]]]]  # FastAPI's own check of a body
    needs_content_type: bool  # else JSON may come without
    scope: dict[str, Any]  # what FastAPI adds to the scope of a request


class FastPath:
    """ASGI middleware: give a request to the endpoint of its route if FastAPI would do no more, else to FastAPI."""

    def __init__(self, app: FastAPI):
        self.app = app
        self._routes: dict[str, FastRoute] = {}  # by path; empty until the application has started
        self._handlers: Mapping[Any, ExceptionHandler] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            if route := self._routes.get(path):
                return await self._serve(route, scope, receive, send)
        if scope["type"] == "lifespan":
            send = self._decide_after_startup(send)
        await self.app(scope, receive, send)

    def _decide_after_startup(self, send: Send) -> Send:
        # FastAPI collects its handlers and middleware now; routes may still come while the application starts.
        self._handlers = dict(self.app.exception_handlers)

        async def send_and_decide(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._routes = choose_routes(self.app)
            await send(message)

        return send_and_decide

    async def _serve(self, route: FastRoute, scope: Scope, receive: Receive, send: Send) -> None:
        arguments: dict[str, Any] = {}
        if route.body:
            if not is_json(scope["headers"], route.needs_content_type):
                return await self.app(scope, receive, send)
            try:
                messages = [await receive()]
                while messages[-1].get("more_body"):
                    messages.append(await receive())
            except Exception as error:
                return await self._answer_error(error, scope, receive, send)
            try:
                found = orjson.loads(b"".join([message.get("body", b"") for message in messages]))
            except ValueError:
                return await self.app(scope, replay(messages, receive), send)
            arguments[route.body], errors = route.validate(found)
            if errors:
                return await self.app(scope, replay(messages, receive), send)
        scope.update(route.scope, path_params={})
        if route.request:
            arguments[route.request] = Request(scope, receive, send)
        try:
            response = await route.endpoint(**arguments)
        except Exception as error:
            return await self._answer_error(error, scope, receive, send)
        await response(scope, receive, send)

    async def _answer_error(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the application's exception handlers say."""

        async def fail(scope: Scope, receive: Receive, send: Send) -> None:
            raise error

        handlers = dict(self._handlers)
        of_bugs = [handlers.pop(key) for key in self._handlers if key in (500, Exception)]
        inner = ExceptionMiddleware(fail, handlers, self.app.debug)
        outer = ServerErrorMiddleware(inner, of_bugs[-1] if of_bugs else None, self.app.debug)
        await outer(scope, receive, send)


def is_json(headers: Iterable[tuple[bytes, bytes]], needed: bool) -> bool:
    """Whether the content type is JSON. FastAPI knows other names for JSON, too; those requests go to it."""
    for name, value in headers:
        if name == b"content-type":
            return value.partition(b";")[0].strip().lower() == b"application/json"
    return not needed


def replay(messages: list[Message], receive: Receive) -> Receive:
    """Return a `receive` that gives `messages` once more, and then what comes after them."""
    left = messages[::-1]

    async def receive_again() -> Message:
        return left.pop() if left else await receive()

    return receive_again


def choose_routes(app: FastAPI) -> dict[str, FastRoute]:
    """Return the routes to serve, by their path. Log which they are, and why the others go to FastAPI."""
    chosen: dict[str, FastRoute] = {}
    others: list[str] = []
    before: list[RouteContext] = []
    for route in iter_route_contexts(app.routes):
        if isinstance(route.original_route, APIRoute) and "POST" in (route.methods or ()):
            path = str(route.path)
            if reason := reason_of_app(app) or reason_of_route(route, before):
                others.append(f"POST {path} ({reason})")
            else:
                chosen[path] = make_route(app, route)
        before.append(route)
    served, left = (", ".join(each) or "nothing" for each in ([f"POST {path}" for path in chosen], others))
    logging.info("the fast path serves %s; it leaves to FastAPI: %s", served, left)
    return chosen


def reason_of_app(app: FastAPI) -> str | None:
    """Return why every request has to go through the application, or None."""
    if layers(app, app.middleware_stack) != layers(app, FastAPI().build_middleware_stack()):
        return "the application has middleware or a limit of its own"
    if app.root_path:
        return "the application has a root_path"
    if app._native_telemetry.enabled():  # FastAPI has no public name for it
        return "FastAPI's telemetry is on"
    return None


def layers(app: FastAPI, layer: Any) -> list[type]:
    """Return the types of the middleware from the outermost to the router."""
    found = [type(layer)]
    while not isinstance(layer, APIRouter) and layer is not None:
        layer = getattr(layer, "app", None)
        found.append(type(layer))
    return found


def reason_of_route(route: RouteContext, before: list[RouteContext]) -> str | None:
    """Return why FastAPI has something to do for a route, or None."""
    dependant = route.dependant
    if dependant.dependencies:
        names = [getattr(each.call, "__name__", type(each.call).__name__) for each in dependant.dependencies]
        return f"it depends on {', '.join(names)}"
    if dependant.path_params or dependant.query_params or dependant.header_params or dependant.cookie_params:
        return "it has parameters"
    body = route.body_field
    if body and (
        len(dependant.body_params) > 1 or route._embed_body_fields or type(body.field_info) is not params.Body
    ):
        return "its body is more than one JSON value"
    if any(
        (
            dependant.response_param_name,
            dependant.background_tasks_param_name,
            dependant.http_connection_param_name,
            dependant.security_scopes_param_name,
        )
    ):
        return "its endpoint takes more than a body and the Request"
    if route.max_body_size is not None:
        return "it has a max_body_size"
    if type(route.original_route) is not APIRoute:
        return f"it is a {type(route.original_route).__name__}"
    if not iscoroutinefunction(route.endpoint):
        return "its endpoint is not an async def"
    if not returns_response(route.endpoint):
        return "its endpoint does not say that it returns a Response"
    scope: Scope = {"type": "http", "method": "POST", "path": route.path, "root_path": "", "headers": []}
    for other in before:
        if type(other.original_route) not in KNOWN_ROUTES or other.matches(scope)[0] == Match.FULL:
            return f"a {type(other.original_route).__name__} before it may take its path"
    return None


def returns_response(endpoint: Callable[..., Any]) -> bool:
    try:
        returned = get_type_hints(endpoint).get("return")
    except NameError:  # the annotation is text, and what it names is not to be found from here
        return False
    return isinstance(returned, type) and issubclass(returned, Response) and returned.__call__ is Response.__call__


def make_route(app: FastAPI, route: RouteContext) -> FastRoute:
    strict = getattr(route.strict_content_type, "value", route.strict_content_type)
    return FastRoute(
        endpoint=route.dependant.call,
        request=route.dependant.request_param_name,
        body=route.body_field and route.dependant.body_params[0].name,
        validate=route.body_field and route.body_field.validate,
        needs_content_type=strict,
        scope={"app": app, "router": app.router, "route": route.original_route, "endpoint": route.endpoint},
    )
