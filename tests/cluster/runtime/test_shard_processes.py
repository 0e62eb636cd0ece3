"""Shard group over real processes: answers, refusals, killed and frozen shards."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import shard_processes as bodies
from shard_processes import peers
from support.wait import SOON_S, until

from cluster.errors import GroupLostError, ProgramError
from cluster.runtime.shard_group import ShardGroup


def test_group_streams_all_sizes_through_three_processes() -> None:
    with peers(bodies.add_stage, 3, 3) as (transport, processes):
        group = ShardGroup(transport, 3, 1, max_inflight=3, timeout_s=10)

        def ask(value: int) -> None:
            shape = (1 + value % 5, 40_000 if value % 3 == 0 else 40)
            sent = np.full(shape, -100 if value % 7 == 0 else value, np.float32)
            if value % 7 == 0:
                with pytest.raises(ProgramError, match="-98 is negative"):
                    group.run([sent])
            else:
                np.testing.assert_array_equal(group.run([sent])[0], sent + 3)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(ask, range(60)))
        group.close()
        for process in processes:
            process.join(5)
            assert process.exitcode == 0


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_killed_shard_breaks_group_soon(victim: int) -> None:
    with peers(bodies.add_stage, 3, 3) as (transport, processes):
        group = ShardGroup(transport, 3, 1, max_inflight=3, timeout_s=30)
        np.testing.assert_array_equal(group.run([np.zeros((1, 2))])[0], [[3, 3]])
        # The last stage blocks this one until it is killed.
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(group.run, [np.full((1, 2), 2000.0)])
            time.sleep(0.1)
            processes[victim].kill()
            started = time.monotonic()
            if victim < 2:
                # The last stage is blocked in its program and cannot notice; the owner of the group
                # observes the end of the process and reports it.
                group.fail(f"shard {victim} was killed")
            with pytest.raises(GroupLostError):
                pending.result(SOON_S)
        assert time.monotonic() - started < SOON_S
        group.close()


def test_shard_killed_while_computing_breaks_group() -> None:
    with peers(bodies.add_stage, 2, 2) as (transport, _):
        group = ShardGroup(transport, 2, 1, max_inflight=2, timeout_s=30)
        started = time.monotonic()
        with pytest.raises(GroupLostError, match="rank 2 is unavailable"):
            group.run([np.full((1, 2), 1000.0)])
        assert time.monotonic() - started < SOON_S
        group.close()


def test_idle_shards_end_when_one_is_killed() -> None:
    with peers(bodies.add_stage, 3, 3) as (transport, processes):
        group = ShardGroup(transport, 3, 1, max_inflight=2, timeout_s=30)
        group.run([np.zeros((1, 2))])
        processes[1].kill()
        until(lambda: group.broken is not None, within_s=SOON_S)
        assert "rank 3 is unavailable" in str(group.broken)
        group.close()
        for process in processes:
            process.join(SOON_S)
            assert process.exitcode is not None


def test_frozen_shard_times_out_and_close_returns() -> None:
    with peers(bodies.add_stage, 2, 2) as (transport, processes):
        group = ShardGroup(transport, 2, 1, max_inflight=4, timeout_s=0.5)
        os.kill(processes[0].pid, signal.SIGSTOP)
        started = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            futures = [pool.submit(group.run, [np.zeros((50, 20_000))]) for _ in range(8)]
            for future in futures:
                with pytest.raises(GroupLostError, match=r"took longer than 0\.5 s"):
                    future.result(SOON_S)
        assert time.monotonic() - started < SOON_S
        group.close()
        assert time.monotonic() - started < 2 * SOON_S
