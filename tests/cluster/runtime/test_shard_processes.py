"""The replica's group over real processes: answers, refusals, a killed shard, a frozen one."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import shard_processes as bodies
from shard_processes import peers

from cluster.errors import GroupLostError, ProgramError
from cluster.runtime.shard_group import ShardGroup


def test_micro_batches_of_all_sizes_stream_through_three_processes() -> None:
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
def test_a_killed_shard_breaks_the_group_within_a_second(victim: int) -> None:
    with peers(bodies.add_stage, 3, 3) as (transport, processes):
        group = ShardGroup(transport, 3, 1, max_inflight=3, timeout_s=30)
        np.testing.assert_array_equal(group.run([np.zeros((1, 2))])[0], [[3, 3]])
        # The last stage holds this one up until it is killed.
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(group.run, [np.full((1, 2), 2000.0)])
            time.sleep(0.1)
            processes[victim].kill()
            started = time.monotonic()
            if victim < 2:
                # The last stage is stuck in its program and does not see it; the replica's owner
                # learns of the process's end and says so.
                group.fail(f"shard {victim} was killed")
            with pytest.raises(GroupLostError):
                held.result(2)
        assert time.monotonic() - started < 1
        group.close()


def test_a_shard_that_dies_while_computing_breaks_the_group() -> None:
    with peers(bodies.add_stage, 2, 2) as (transport, _):
        group = ShardGroup(transport, 2, 1, max_inflight=2, timeout_s=30)
        started = time.monotonic()
        with pytest.raises(GroupLostError, match="rank 2 is gone"):
            group.run([np.full((1, 2), 1000.0)])
        assert time.monotonic() - started < 1
        group.close()


def test_idle_shards_end_when_one_of_them_is_killed() -> None:
    with peers(bodies.add_stage, 3, 3) as (transport, processes):
        group = ShardGroup(transport, 3, 1, max_inflight=2, timeout_s=30)
        group.run([np.zeros((1, 2))])
        processes[1].kill()
        deadline = time.monotonic() + 1
        while group.broken is None and time.monotonic() < deadline:
            time.sleep(0.005)
        assert "rank 3 is gone" in str(group.broken)
        group.close()
        for process in processes:
            process.join(2)
            assert process.exitcode is not None


def test_a_frozen_shard_is_given_up_after_the_timeout_and_closing_does_not_hang() -> None:
    with peers(bodies.add_stage, 2, 2) as (transport, processes):
        group = ShardGroup(transport, 2, 1, max_inflight=4, timeout_s=0.5)
        os.kill(processes[0].pid, signal.SIGSTOP)
        started = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(group.run, [np.zeros((50, 20_000))]) for _ in range(8)]
            for each in asked:
                with pytest.raises(GroupLostError, match=r"took longer than 0\.5 s"):
                    each.result(3)
        assert time.monotonic() - started < 1.5
        group.close()
        assert time.monotonic() - started < 5
