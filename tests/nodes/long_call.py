"""Call an actor on the node of an address; it sleeps for a minute; print its answer."""

from __future__ import annotations

import sys
import time

import ray


@ray.remote
class Sleeper:
    def sleep(self, seconds: int) -> int:
        time.sleep(seconds)
        return seconds


if __name__ == "__main__":
    ray.init(address="auto", log_to_driver=False)
    there = {f"node:{sys.argv[1]}": 0.001}
    sleeper = Sleeper.options(num_cpus=0, resources=there).remote()
    print(ray.get(sleeper.sleep.remote(60)))
