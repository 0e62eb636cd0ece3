"""The hook of a pod that ends, on a real Ray node."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import os, subprocess, sys, time
import ray
context = ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR")
address = context.address_info["gcs_address"]
gcs = ray._private.worker.global_worker.gcs_client
node = ray.NodeID.from_hex(ray.get_runtime_context().get_node_id())
assert gcs.get_all_node_info()[node].state == 0  # alive
hook = subprocess.Popen(
    [sys.executable, "-m", "deployments.kubernetes.leave"], text=True,
    env={**os.environ, "RAY_ADDRESS": address}, stdout=subprocess.PIPE,
)
try:
    print(hook.stdout.readline(), node.hex(), flush=True)
    # Nothing runs there but this driver; once that is gone, the node ends by itself.
    assert hook.poll() is None
finally:
    hook.kill()
"""


def test_the_node_drains(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    environment = {"PYTHONPATH": str(root), "HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    said, node = done.stdout.split("\n")[0], done.stdout.split()[-1]
    assert said == f"leave: node {node} drains"
