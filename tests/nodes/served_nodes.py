"""What the nodes serve: ``tiny`` whole on two of them, ``cut`` in two stages on different ones."""

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
"""Of HAProxy, on every node that serves."""

REPLICA_PORTS = range(30000, 31000)
"""Where replicas listen for HAProxies."""

Replica = dict[str, Any]


@dataclass
class Served:
    """The cluster's two applications, as a client and as Serve sees them."""

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
        """PUT both applications and wait until clients are answered on the replicas' nodes."""
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
        """Until :meth:`is_whole`; the seconds it took."""
        return self.cluster.wait(
            lambda: self.is_whole(replicas), f"not all of {replicas} replicas run", timeout_s
        )

    def is_whole(self, replicas: int) -> bool:
        """Whether all applications run, with so many replicas of ``tiny``, and all are reached."""
        found = self.statuses()
        return (
            set(found.values()) == {"RUNNING"}
            and self.tiny_is_whole(replicas)
            and ("cut" not in found or all(map(self._answers_cut, self.homes("cut"))))
        )

    def tiny_is_whole(self, replicas: int) -> bool:
        """Whether so many replicas of ``tiny``, and no others, are on living nodes, and each of
        their HAProxies answers and has all of them to send requests to."""
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
        """Serve's word on every replica of an application, in whatever state."""
        deployments = self.applications()[application]["deployments"].values()
        return [replica for deployment in deployments for replica in deployment["replicas"]]

    def homes(self, application: str) -> list[str]:
        """The addresses of the nodes where its replicas run."""
        found = self.replicas(application)
        return [replica["node_ip"] for replica in found if replica["state"] == "RUNNING"]

    def replica_ids(self, application: str) -> set[str]:
        """Those of its replicas that run."""
        found = self.replicas(application)
        return {replica["replica_id"] for replica in found if replica["state"] == "RUNNING"}

    def answers(self, address: str, model: str) -> bool:
        """Whether a model is ready there; a node that nobody hears is not waited for."""
        return self.ask(address, f"/v2/models/{model}/ready", timeout_s=2).status == 200

    def _answers_cut(self, address: str) -> bool:
        return self.answers(address, "cut")

    def ask(
        self, address: str, path: str, *request: Any, port: int = HTTP_PORT, timeout_s: float = 20
    ) -> Answer:
        """A request from the client's host to a node."""
        url = f"http://{address}:{port}{path}"
        return self.cluster.client.call(ask, url, *request, timeout_s=timeout_s)

    def ask_replica(self, replica: Replica, path: str) -> Answer:
        """A request to one replica of ``tiny`` and no other, past every HAProxy."""
        for port in REPLICA_PORTS[:20]:  # from the first on, as they were started
            with contextlib.suppress(ConnectionError):
                answer = self.ask(replica["node_ip"], path, port=port)
                if answer.status == 200:
                    return answer
        raise LookupError(replica)

    def requests_by_server(self, entry: str) -> dict[str, int]:
        """How many requests for ``tiny`` the HAProxy of a node has sent to each replica so far."""
        host = self.cluster.node_at(entry).host  # on loopback, there alone
        text = host.call(ask, f"http://127.0.0.1:{STATS_PORT}/stats;csv").body.decode()
        return {
            server["svname"]: int(server["stot"])
            for server in csv.DictReader(text.splitlines())
            if "tiny" in server["# pxname"]
            and server["svname"].startswith("SERVE_REPLICA_")
            and server["status"] == "UP"
        }

    def spread_cut(self) -> list[str]:
        """See to it that the two shards of ``cut`` are on different nodes; their addresses."""
        if len(set(self.shard_homes())) == 1:  # as when fewer nodes were there: placed once more
            self.deploy(with_cut=False)
            self.deploy()
        first, second = self.shard_homes()
        assert first != second
        return [first, second]

    def is_cut_at_home(self) -> bool:
        """Whether both shards of ``cut`` run, and no move of any shard is under way."""
        groups = self.cluster.listed("placement_groups")
        moves = [row for row in groups if "#move-" in row["name"] and row["state"] != "REMOVED"]
        return not moves and len(self.shard_homes()) == 2

    def shard_homes(self) -> list[str]:
        """The addresses of the nodes where the shards of ``cut`` are, by stage."""
        done = self.cluster.run("deployments.cli.main", "inspect", "--replicas", "--json")
        assert done.returncode == 0, done.stderr
        address = {node["node_id"][:12]: node["node_ip"] for node in self.cluster.listed("nodes")}
        shards = sorted(json.loads(done.stdout)["shards"], key=lambda shard: shard["stage"])
        return [address[shard["node"]] for shard in shards]

    def load(self, model: str, *addresses: str, clients: int = 2, keep: bool = True) -> SteadyLoad:
        """Clients of a model by way of these nodes, until the block ends."""
        array = np.random.default_rng(0).standard_normal((1, *ITEM_SHAPE)).astype(np.float32)
        body, headers = binary_request("input", array)
        path = f"/v2/models/{model}/infer"
        return SteadyLoad(self.cluster.client, list(addresses), path, body, headers, clients, keep)
