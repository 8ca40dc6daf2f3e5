"""Which routes each kind of listener has."""

from __future__ import annotations

from collections.abc import Iterable

from ..model.proxies import Proxy
from .auth import identify_at_sidecar, identify_without_token
from .context import Context
from .dispatch import Dispatcher
from .refusals import refusal
from .routes.authorize import AuthorizeRoutes
from .routes.contour import ContourRoutes
from .routes.control import ControlRoutes
from .routes.dashboard import DashboardRoutes
from .routes.deployed_apps import DeployedAppRoutes
from .routes.direct_jobs import DirectJobRoutes
from .routes.discovery import DiscoveryRoutes
from .routes.functions import FunctionRoutes
from .routes.inspection import InspectionRoutes
from .routes.module import ModuleRoutes
from .routes.monitoring import MonitoringRoutes
from .routes.multipass import MultipassRoutes
from .routes.ontologies import OntologyRoutes
from .routes.openapi import OpenAPIRoute
from .routes.proxy import ProxyRoutes
from .routes.replicas import ReplicaRoutes
from .routes.runtimes import RuntimeRoutes
from .routes.supervised import SupervisedRoutes
from .routes.users import UserRoutes
from .routing import App
from .transport.site import EmulatorSite


def emulator_site(context: Context, proxies: Iterable[Proxy] = ()) -> EmulatorSite:
    """Return the site of the main listeners, which have all routes but the sidecar form."""
    return _site(emulator_app(context, proxies), context)


def change_proxies(site: EmulatorSite, context: Context, proxies: Iterable[Proxy]) -> None:
    """Pass the next requests to a site of the main listeners on to other servers than before."""
    site.answerer = _dispatcher(emulator_app(context, proxies))


def emulator_app(context: Context, proxies: Iterable[Proxy] = ()) -> App:
    """Return the routes of the main listeners."""
    app = App()
    DiscoveryRoutes(context).register(app)
    RuntimeRoutes(context).register(app)
    ReplicaRoutes(context).register(app)
    ModuleRoutes(context).register(app)
    DirectJobRoutes(context).register(app)
    ContourRoutes(context).register(app)
    DeployedAppRoutes(context).register(app)
    FunctionRoutes(context).register(app)
    OntologyRoutes(context).register(app)
    MultipassRoutes(context).register(app)
    AuthorizeRoutes(context).register(app)
    UserRoutes(context).register(app)
    ControlRoutes(context).register(app)
    InspectionRoutes(context).register(app)
    DashboardRoutes().register(app)
    MonitoringRoutes(context).register(app)
    SupervisedRoutes(context).register(app)
    OpenAPIRoute().register(app)
    ProxyRoutes(context, proxies).register(app)
    return app


def sidecar_site(context: Context, runtime_id: str) -> EmulatorSite:
    """Return the site of a sidecar listener, which is bound to one runtime (contract section 2)."""
    return _site(sidecar_app(context, runtime_id), context)


def sidecar_app(context: Context, runtime_id: str) -> App:
    """Return the routes of a sidecar listener."""
    app = App()
    ModuleRoutes(context, identify_at_sidecar).register_as_foundry(app, runtime_id)
    ModuleRoutes(context, identify_without_token).register_bare(app, runtime_id)
    return app


def _site(app: App, context: Context) -> EmulatorSite:
    return EmulatorSite(_dispatcher(app), context.guard, context.reactor, context.metrics.count_error)


def _dispatcher(app: App) -> Dispatcher:
    for rule in app.url_map.iter_rules():
        # A HEAD request for a job would take it from the queue and lose it.
        if rule.methods is not None and rule.rule.endswith("/job"):
            rule.methods.discard("HEAD")
    return Dispatcher(app, refusal)
