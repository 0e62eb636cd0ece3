"""A driver that makes every call of ``deployments/ray`` to the running cluster; prints JSON."""

from __future__ import annotations

import asyncio
import json
import os

import ray

from deployments.ray import nodes
from deployments.ray.controller import TargetGroups, serve_details
from deployments.ray.replica_context import application_name
from deployments.ray.session import (
    forget_name,
    session_directory,
    share_name,
    shared_names,
    shared_secret,
)


def main() -> None:
    """Connect as any driver does, and call."""
    ray.init(address="auto", log_to_driver=False)
    groups = asyncio.run(TargetGroups().read())
    secret = shared_secret(b"headrace-contract")
    for name in ("a b", "c"):
        share_name("headrace-contract", name)
    forget_name("headrace-contract", "c")
    facts = {
        "shared_names": shared_names("headrace-contract"),
        "details": serve_details(),
        "groups": [
            {
                "route_prefix": group.route_prefix,
                "protocol": str(group.protocol),
                "targets": [[target.ip, target.port] for target in group.targets],
            }
            for group in groups
        ],
        "secret": secret,
        "secret_again": shared_secret(b"headrace-contract"),
        "other_secret": shared_secret(b"headrace-contract-2"),
        "session": str(session_directory()),
        "is_session": os.path.isdir(session_directory() / "logs"),
        "this_node": nodes.this_node(),
        "staying": sorted(nodes.staying()),
        "draining": sorted(nodes.draining()),
        "application_name": application_name(),
    }
    print(json.dumps(facts, default=str))


main()
