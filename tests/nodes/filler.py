"""Takes the CPUs of nodes, so that there is no room: ``ADDRESS=LEFT ...``; without any, frees them.

Run on a node. What it takes stays taken when it ends.
"""

from __future__ import annotations

import sys

import ray
from ray._private.state import available_resources_per_node
from ray.util import get_placement_group, placement_group, remove_placement_group

NAME = "filler"


def main(left: dict[str, int]) -> None:
    ray.init(address="auto", namespace=NAME, log_to_driver=False)
    if not left:
        remove_placement_group(get_placement_group(NAME))
        return
    nodes = {node["NodeManagerAddress"]: node["NodeID"] for node in ray.nodes() if node["Alive"]}
    free = available_resources_per_node()
    taken = {address: free[nodes[address]]["CPU"] - cpus for address, cpus in left.items()}
    group = placement_group(
        [{"CPU": cpus} for cpus in taken.values()],
        "SPREAD",
        name=NAME,
        lifetime="detached",
        bundle_label_selector=[{"ray.io/node-id": nodes[address]} for address in taken],
    )
    if not group.wait(20):
        raise TimeoutError(f"{taken} could not be taken")


if __name__ == "__main__":
    main({address: int(cpus) for address, cpus in (each.split("=") for each in sys.argv[1:])})
