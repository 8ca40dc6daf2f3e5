"""All routes together, as one Klein application, and what becomes of an exception in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from klein import Klein
from twisted.logger import Logger
from twisted.python.failure import Failure
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from ..broker import BrokerError, BrokerStopped, JobAlreadyCompleted, NotBound, QueueFull, UnknownJob, UnknownRuntime
from . import errors
from .context import Context, IdConverter
from .contour import ContourRoutes
from .control import ControlRoutes
from .inspection import InspectionRoutes
from .multipass import MultipassRoutes
from .openapi import OpenAPIRoute
from .runtime import RuntimeRoutes
from .site import BodyLost, EmulatorRequest, EmulatorSite

_log = Logger()


def emulator_site(context: Context) -> EmulatorSite:
    """
    @return: the site of the main listeners: everything but the sidecar form.
    """
    return _site(emulator_app(context), context)


def emulator_app(context: Context) -> Klein:
    """
    @return: the routes of the main listeners.
    """
    app = _bare_app()
    RuntimeRoutes(context).register(app)
    ContourRoutes(context).register(app)
    MultipassRoutes(context).register(app)
    ControlRoutes(context).register(app)
    InspectionRoutes(context).register(app)
    OpenAPIRoute().register(app)
    return app


def sidecar_site(context: Context, runtime_id: str) -> EmulatorSite:
    """
    @return: the site of a sidecar listener, bound to one runtime (contract section 2).
    """
    app = _bare_app()
    RuntimeRoutes(context).register_sidecar(app, runtime_id)
    return _site(app, context)


def _bare_app() -> Klein:
    app = Klein()
    app.url_map.converters["id"] = IdConverter
    app.url_map.merge_slashes = False
    handlers: tuple[tuple[type[Exception], Any], ...] = (
        (errors.ApiError, _api_error),
        (BrokerError, _refused),
        (MethodNotAllowed, _method_not_allowed),
        (HTTPException, _no_route),
        (BodyLost, _body_lost),
        (Exception, _unexpected),
    )
    for kind, handler in handlers:
        app.handle_errors(kind)(handler)
    return app


def _site(app: Klein, context: Context) -> EmulatorSite:
    for rule in app.url_map.iter_rules():
        # A HEAD that took a job from the queue would lose it.
        if rule.methods is not None:
            rule.methods.discard("HEAD")
    return EmulatorSite(app.resource(), context.guard, context.reactor)


def _api_error(request: EmulatorRequest, failure: Failure) -> bytes:
    error = failure.value
    assert isinstance(error, errors.ApiError)
    return request.error(error)


#: How what the broker refuses looks on the wire, by the arguments of its exception.
_REFUSALS: dict[type[BrokerError], Callable[..., errors.ApiError]] = {
    UnknownRuntime: errors.unknown_runtime,
    UnknownJob: errors.unknown_job,
    NotBound: errors.not_bound,
    QueueFull: errors.queue_full,
    JobAlreadyCompleted: errors.job_already_completed,
    BrokerStopped: lambda: errors.unavailable("The emulator is shutting down; try again when it is back."),
}


def _refused(request: EmulatorRequest, failure: Failure) -> bytes:
    error = failure.value
    assert isinstance(error, BrokerError)
    return request.error(_REFUSALS[type(error)](*error.args))


def _method_not_allowed(request: EmulatorRequest, failure: Failure) -> bytes:
    error = failure.value
    assert isinstance(error, MethodNotAllowed)
    allowed = ", ".join(sorted(error.valid_methods or ()))
    return request.error(
        errors.ApiError(
            405, "method_not_allowed", f"This route takes {allowed}.", {"allow": allowed}, {"Allow": allowed}
        )
    )


def _no_route(request: EmulatorRequest, failure: Failure) -> bytes:
    return request.error(errors.not_found("There is no such route."))


def _body_lost(request: EmulatorRequest, failure: Failure) -> None:
    """Nobody is there to be answered."""


def _unexpected(request: EmulatorRequest, failure: Failure) -> bytes:
    if request.startedWriting:
        _log.failure("while answering {method} {path}", failure, method=request.method, path=request.path)
        request.break_off()
        return b""
    _log.failure("no answer for {method} {path}", failure, method=request.method, path=request.path)
    return request.error(errors.ApiError(500, "internal", "The emulator has a fault; its log says more."))
