"""All routes together, as one Klein application, and what becomes of an exception in them."""

from __future__ import annotations

from collections.abc import Callable

from klein import Klein
from twisted.logger import Logger
from twisted.python.failure import Failure
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from ..broker.interface import (
    BrokerError,
    BrokerStopped,
    BrokerUnavailable,
    JobAlreadyCompleted,
    NotBound,
    QueueFull,
    UnknownJob,
    UnknownRuntime,
)
from ..model import errors as names
from . import errors
from .context import Context
from .dispatch import Dispatcher
from .parsing import IdConverter
from .routes.contour import ContourRoutes
from .routes.control import ControlRoutes
from .routes.dashboard import DashboardRoutes
from .routes.inspection import InspectionRoutes
from .routes.monitoring import MonitoringRoutes
from .routes.multipass import MultipassRoutes
from .routes.openapi import OpenAPIRoute
from .routes.runtimes import RuntimeRoutes
from .transport.site import EmulatorSite

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
    DashboardRoutes().register(app)
    MonitoringRoutes(context).register(app)
    OpenAPIRoute().register(app)
    return app


def sidecar_site(context: Context, runtime_id: str) -> EmulatorSite:
    """
    @return: the site of a sidecar listener, bound to one runtime (contract section 2).
    """
    return _site(sidecar_app(context, runtime_id), context)


def sidecar_app(context: Context, runtime_id: str) -> Klein:
    """
    @return: the routes of a sidecar listener.
    """
    app = _bare_app()
    RuntimeRoutes(context).register_sidecar(app, runtime_id)
    return app


def _bare_app() -> Klein:
    app = Klein()
    app.url_map.converters["id"] = IdConverter
    app.url_map.merge_slashes = False
    return app


def _site(app: Klein, context: Context) -> EmulatorSite:
    for rule in app.url_map.iter_rules():
        # A HEAD that took a job from the queue would lose it.
        if rule.methods is not None:
            rule.methods.discard("HEAD")
    return EmulatorSite(Dispatcher(app, _refusal), context.guard, context.reactor, context.metrics.count_error)


#: How what the broker refuses looks on the wire, by the arguments of its exception.
_REFUSALS: dict[type[BrokerError], Callable[..., errors.ApiError]] = {
    UnknownRuntime: errors.unknown_runtime,
    UnknownJob: errors.unknown_job,
    NotBound: errors.not_bound,
    QueueFull: errors.queue_full,
    JobAlreadyCompleted: errors.job_already_completed,
    BrokerStopped: lambda: errors.unavailable("The emulator is shutting down; try again when it is back."),
    BrokerUnavailable: lambda reason: errors.unavailable(f"{reason}; try again when it is back."),
}


def _refusal(error: Exception) -> errors.ApiError:
    """What to answer to an exception that came out of a route, or of the search for one."""
    if isinstance(error, errors.ApiError):
        return error
    if isinstance(error, BrokerError):
        refusal = next(_REFUSALS[kind] for kind in type(error).__mro__ if kind in _REFUSALS)
        return refusal(*error.args)
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        return errors.ApiError(
            405, names.METHOD_NOT_ALLOWED, f"This route takes {allowed}.", {"allow": allowed}, {"Allow": allowed}
        )
    if isinstance(error, HTTPException):
        return errors.not_found("There is no such route.")
    _log.failure("no answer", Failure(error))
    return errors.ApiError(500, "internal", "The emulator has a fault; its log says more.")
