"""Reserve the CPUs of nodes except a few: ``ADDRESS=FREE ...``; without arguments, release them.

Runs on a node. The placement group is detached, so it outlives this process.
"""

from __future__ import annotations

import sys

import ray
from ray._private.state import available_resources_per_node
from ray.util import get_placement_group, placement_group, remove_placement_group

NAME = "filler"


def main(spare: dict[str, int]) -> None:
    ray.init(address="auto", namespace=NAME, log_to_driver=False)
    if not spare:
        remove_placement_group(get_placement_group(NAME))
        return
    nodes = {node["NodeManagerAddress"]: node["NodeID"] for node in ray.nodes() if node["Alive"]}
    free = available_resources_per_node()
    reserved = {address: free[nodes[address]]["CPU"] - cpus for address, cpus in spare.items()}
    group = placement_group(
        [{"CPU": cpus} for cpus in reserved.values()],
        "SPREAD",
        name=NAME,
        lifetime="detached",
        bundle_label_selector=[{"ray.io/node-id": nodes[address]} for address in reserved],
    )
    if not group.wait(20):
        raise TimeoutError(f"the CPUs {reserved} were not reserved within 20 s")


if __name__ == "__main__":
    main({address: int(cpus) for address, cpus in (pair.split("=") for pair in sys.argv[1:])})
