"""Applications of the nodes: ``tiny`` whole on two, ``cut`` in two stages on different ones.

client ─→ HAProxy of a node ─┬→ replicas of tiny
                             └→ replica of cut ─→ shard 0, shard 1
"""

from __future__ import annotations

import contextlib
import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ray_nodes import HTTP_PORT, Nodes
from steady_load import SteadyLoad, binary_request
from support.http_client import Answer, ask
from support.serve_config import model

ITEM_SHAPE = (1, 16, 16)

STATS_PORT = 8404
"""Port of HAProxy's statistics, on every node that serves."""

REPLICA_PORTS = range(30000, 31000)
"""Ports on which replicas listen for HAProxy."""

Replica = dict[str, Any]


@dataclass
class Served:
    """View of the cluster's two applications, from a client and from Serve."""

    cluster: Nodes
    store: Path
    cut_store: Path

    def deploy(
        self,
        *,
        artifact: str = "tiny-int8",
        replicas: int = 2,
        surge_percent: int = 0,
        with_cut: bool = True,
    ) -> None:
        """PUT both applications; wait until the replicas' nodes answer clients."""
        batching = {"max_batch_size": 4}
        tiny = model("tiny", artifact, self.store, replicas=replicas, batching=batching)
        tiny["deployments"] = [
            {
                "name": "model-tiny",
                "max_replicas_per_node": 1,
                "max_surge_percent": surge_percent,
            }
        ]
        parallel = {"pipeline": 2, "placement": "SPREAD"}
        cut = model("cut", "tiny-cut", self.cut_store, parallel=parallel)
        config = {
            "proxy_location": "EveryNode",
            "http_options": {"host": "0.0.0.0", "port": HTTP_PORT},
            "applications": [tiny, cut] if with_cut else [tiny],
        }
        self.cluster.client.call(self.cluster.dashboard.deploy, config)
        self.wait_for(replicas)

    def wait_for(self, replicas: int, *, timeout_s: float = 120) -> float:
        """Wait until :meth:`is_whole`; return the seconds."""
        return self.cluster.wait(
            lambda: self.is_whole(replicas), f"not all of {replicas} replicas run", timeout_s
        )

    def is_whole(self, replicas: int) -> bool:
        """Return whether all applications run and answer, with ``replicas`` replicas of tiny."""
        statuses = self.statuses()
        return (
            set(statuses.values()) == {"RUNNING"}
            and self.tiny_is_whole(replicas)
            and ("cut" not in statuses or all(map(self._answers_cut, self.homes("cut"))))
        )

    def tiny_is_whole(self, replicas: int) -> bool:
        """Return whether exactly ``replicas`` replicas of ``tiny`` run, all on living nodes.

        The HAProxy of each such node must also answer, and know all replicas.
        """
        homes = self.homes("tiny")
        return (
            len(homes) == replicas == len(self.replicas("tiny"))
            and set(homes) <= set(self.cluster.alive())
            and all(self.answers(address, "tiny") for address in homes)
            and all(len(self.requests_by_server(address)) == replicas for address in homes)
        )

    def applications(self) -> dict[str, dict[str, Any]]:
        return self.cluster.client.call(self.cluster.dashboard.applications)

    def statuses(self) -> dict[str, str]:
        return {name: details["status"] for name, details in self.applications().items()}

    def replicas(self, application: str) -> list[Replica]:
        """Return Serve's details of every replica of an application, in any state."""
        deployments = self.applications()[application]["deployments"].values()
        return [replica for deployment in deployments for replica in deployment["replicas"]]

    def homes(self, application: str) -> list[str]:
        """Return the addresses of the nodes of its running replicas."""
        replicas = self.replicas(application)
        return [replica["node_ip"] for replica in replicas if replica["state"] == "RUNNING"]

    def replica_ids(self, application: str) -> set[str]:
        """Return the ids of its running replicas."""
        replicas = self.replicas(application)
        return {replica["replica_id"] for replica in replicas if replica["state"] == "RUNNING"}

    def answers(self, address: str, model: str) -> bool:
        """Return whether a model is ready there; an unreachable node raises OSError within 2 s."""
        return self.ask(address, f"/v2/models/{model}/ready", timeout_s=2).status == 200

    def _answers_cut(self, address: str) -> bool:
        return self.answers(address, "cut")

    def ask(
        self, address: str, path: str, *request: Any, port: int = HTTP_PORT, timeout_s: float = 20
    ) -> Answer:
        """Send a request from the client's host to a node."""
        url = f"http://{address}:{port}{path}"
        return self.cluster.client.call(ask, url, *request, timeout_s=timeout_s)

    def ask_replica(self, replica: Replica, path: str) -> Answer:
        """Send a request to one replica of ``tiny``, bypassing HAProxy."""
        for port in REPLICA_PORTS[:20]:  # replicas take ports in the order of their start
            with contextlib.suppress(ConnectionError):
                answer = self.ask(replica["node_ip"], path, port=port)
                if answer.status == 200:
                    return answer
        raise LookupError(replica)

    def requests_by_server(self, entry: str) -> dict[str, int]:
        """Return the number of requests for ``tiny`` that a node's HAProxy sent to each replica."""
        host = self.cluster.node_at(entry).host  # its statistics are on loopback only
        text = host.call(ask, f"http://127.0.0.1:{STATS_PORT}/stats;csv").body.decode()
        return {
            server["svname"]: int(server["stot"])
            for server in csv.DictReader(text.splitlines())
            if "tiny" in server["# pxname"]
            and server["svname"].startswith("SERVE_REPLICA_")
            and server["status"] == "UP"
        }

    def spread_cut(self) -> list[str]:
        """Place the two shards of ``cut`` on different nodes; return their addresses."""
        if len(set(self.shard_homes())) == 1:  # placed while there were fewer nodes
            self.deploy(with_cut=False)
            self.deploy()
        first, second = self.shard_homes()
        assert first != second
        return [first, second]

    def is_cut_at_home(self) -> bool:
        """Return whether both shards of ``cut`` run, and no shard is moving."""
        groups = self.cluster.listed("placement_groups")
        moves = [row for row in groups if "#move-" in row["name"] and row["state"] != "REMOVED"]
        return not moves and len(self.shard_homes()) == 2

    def shard_homes(self) -> list[str]:
        """Return the addresses of the nodes of the shards of ``cut``, by stage."""
        done = self.cluster.run("deployments.cli.main", "inspect", "--replicas", "--json")
        assert done.returncode == 0, done.stderr
        address = {node["node_id"][:12]: node["node_ip"] for node in self.cluster.listed("nodes")}
        shards = sorted(json.loads(done.stdout)["shards"], key=lambda shard: shard["stage"])
        return [address[shard["node"]] for shard in shards]

    def load(self, model: str, *addresses: str, clients: int = 2, keep: bool = True) -> SteadyLoad:
        """Return a context manager: clients of a model through these nodes."""
        array = np.random.default_rng(0).standard_normal((1, *ITEM_SHAPE)).astype(np.float32)
        body, headers = binary_request("input", array)
        path = f"/v2/models/{model}/infer"
        return SteadyLoad(self.cluster.client, list(addresses), path, body, headers, clients, keep)
