"""What Foundry's clients read about deployed apps, as JSON (contract section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from uuid import NAMESPACE_URL, uuid5

from ..broker.interface import ReplicaSnapshot, RuntimeSnapshot
from ..model.replicas import ReplicaState
from ..model.runtimes import Binding
from ..model.types import JSONValue
from .descriptions import replicas_in_use
from .foundry_descriptions import union

#: Foundry's words for the states of replicas that are open. A replica that is full still responds.
_REPLICA_STATES = {
    ReplicaState.STARTING: "STARTING",
    ReplicaState.RESPONSIVE: "RESPONSIVE",
    ReplicaState.BUSY: "RESPONSIVE",
    ReplicaState.SILENT: "UNRESPONSIVE",
}


def describe_deployed_app(rid: str, snapshot: RuntimeSnapshot) -> JSONValue:
    """Return the status of a compute module and of its replicas; those that are gone do not count.

    The platform scales a module between a minimum and a maximum. Here both are the number of replicas that are open.
    """
    runtime = snapshot.runtime
    in_use = replicas_in_use(snapshot.replicas)
    members = _open_replicas(snapshot)
    responsive = sum(each.state.connected for each in members)
    total = len(members)
    moments = [moment for each in in_use for moment in (each.replica.opened_at, each.replica.ended_at or 0)]
    updated = max([runtime.opened_at, *moments]) / 1000
    replicas = {
        "configuredMaxModules": total,
        "configuredMinModules": total,
        "images": [],
        "moduleGroupName": runtime.runtime_id,
        "replicaSetDiagnostic": None,
        "replicaSetId": runtime.runtime_id,
        "replicas": [
            {
                "replicaId": each.replica.replica_id,
                "state": {"reason": [], "state": _REPLICA_STATES[each.state]},
                "maxConcurrentTasks": each.replica.limit,
            }
            for each in members
        ],
        "responsiveReplicas": responsive,
        "state": "ACTIVE" if responsive else "STARTING",
        "totalReplicas": total,
    }
    return {
        "computeModuleId": rid,
        "buildRid": None,
        "buildJobRid": "",
        "currentReplicaSet": replicas,
        "targetReplicaSet": None,
        "previousUpdate": datetime.fromtimestamp(updated, timezone.utc).isoformat(),
        "resourceProgressStatus": union("appliedInCluster", {}),
        "scalingConfig": {"maxNumModules": total, "minNumModules": total},
    }


def describe_configuration(first: Binding, branches: Sequence[tuple[Binding, RuntimeSnapshot]]) -> JSONValue:
    """Return the configuration of a deployed app, in the terms of Foundry's clients.

    The fields for what only the platform has, such as inputs, sources and policies, are empty. Foundry's answer has no
    ``branches``: they say what the emulator knows of the app on each of its branches.

    Args:
        first: The branch whose replicas ``runtimeParameters`` tells of.
        branches: Each branch, with the runtime that serves it; the first one is among them.
    """
    rid = first.deployed_app_rid
    members = _open_replicas(next(snapshot for binding, snapshot in branches if binding == first))
    limits = [each.replica.limit for each in members if each.replica.limit is not None]
    computation: JSONValue = {
        "authMode": None,
        "computeModuleInputs": [],
        "computeModuleInputsV2": [],
        "computeModuleOutputs": [],
        "computeModuleOutputsV2": [],
        "expectedMaxResultSizeMb": None,
        "externalSources": [],
        "foundryContainerizedApplication": {},
        "foundryDataAccess": False,
        "outboundAppRid": None,
        "reportingMetadata": None,
        "resourceConstraintsAndReportingOverrides": None,
        "runtime": "COMPUTE_MODULE_RUNTIME_V1",
        "securityScopes": [],
        "serverEndpointsSpec": None,
        "telemetrySessionTags": [],
    }
    scaling = {
        "concurrencyLimit": max(limits, default=None),
        "maxReplicas": len(members),
        "minReplicas": len(members),
        "scaleDownDelay": None,
        "scaleDownLoadThreshold": None,
        "scaleUpDelay": None,
        "scaleUpLoadThreshold": None,
    }
    runtime: JSONValue = {
        "foundryServiceAccess": [],
        "maxAllowedDurationMinutes": None,
        "networkPolicies": [],
        "scalingConfig": scaling,
        "staleQueryDurationSeconds": None,
    }
    return {
        "deployedAppRid": rid,
        # The same in every answer about this app.
        "jobSpecRid": f"ri.foundry.main.jobspec.{uuid5(NAMESPACE_URL, rid)}",
        "computationParameters": union("computationParamsV1", computation),
        "runtimeParameters": union("runtimeParamsV1", runtime),
        "externalSources": {"importedExternalSources": [], "unimportedExternalSources": []},
        "branches": [
            {
                "branch": binding.branch,
                "displayName": binding.display_name,
                "runtimeId": binding.runtime_id,
                "functions": None if snapshot.runtime.schemas is None else sorted(snapshot.runtime.schemas),
            }
            for binding, snapshot in branches
        ],
    }


def _open_replicas(snapshot: RuntimeSnapshot) -> list[ReplicaSnapshot]:
    return [each for each in replicas_in_use(snapshot.replicas) if not each.replica.gone]
