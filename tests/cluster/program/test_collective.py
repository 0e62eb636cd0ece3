"""All-reduce between the processes of a model's slices, also with killed and frozen ranks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from support.shared_memory import used_by

from cluster.compression.programs import native_runner
from cluster.errors import ProgramError
from cluster.program import aoti, collective

RANK = """
import json, os, sys, time
from pathlib import Path
import numpy as np
from cluster.program import aoti

extension, rank, size, timeout_s, slot_bytes = sys.argv[1:]
rank, extension = int(rank), Path(extension)
if rank == 0:
    group = aoti.create_group(extension, int(size), float(timeout_s), int(slot_bytes))
    print(group.address, flush=True)
else:
    group = aoti.open_group(extension, sys.stdin.readline().strip(), rank, float(timeout_s))
print("joined", "torch" in sys.modules, flush=True)
for line in sys.stdin:
    dtype, count, times = json.loads(line)
    started = time.perf_counter()
    try:
        total = np.zeros(0)
        for index in range(times):
            array = np.random.default_rng([rank, index]).standard_normal(count).astype(dtype)
            total = group.all_reduce(array)
        answer = {"bytes": total.tobytes().hex()}
    except RuntimeError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer | {"took_s": time.perf_counter() - started}), flush=True)
"""

Ranks = Callable[..., list[subprocess.Popen]]


@pytest.fixture(scope="module")
def extension() -> Path:
    return native_runner.build()


@pytest.fixture
def ranks(extension: Path) -> Iterator[Ranks]:
    """Factory ``ranks(size)`` of processes in one group, which execute the lines of `send_sum`."""
    started: list[subprocess.Popen] = []

    def start(size: int, timeout_s: float = 5.0, slot_bytes: int = 1 << 20) -> list:
        for rank in range(size):
            arguments = map(str, (extension, rank, size, timeout_s, slot_bytes))
            process = subprocess.Popen(
                [sys.executable, "-c", RANK, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            started.append(process)
        address = started[0].stdout.readline()
        for process in started[1:]:
            process.stdin.write(address)
            process.stdin.flush()
        for process in started:
            assert process.stdout.readline().split() == ["joined", "False"]
        return started

    yield start
    for process in started:
        process.kill()
        process.communicate()


def send_sum(process: subprocess.Popen, dtype: str, count: int, times: int = 1) -> None:
    process.stdin.write(json.dumps([dtype, count, times]) + "\n")
    process.stdin.flush()


def answer(process: subprocess.Popen) -> dict:
    return json.loads(process.stdout.readline())


def total(size: int, dtype: str, count: int, index: int = 0) -> np.ndarray:
    """Return the sum in the order of the ranks; two-byte numbers are rounded once."""
    wide = np.float64 if dtype == "float64" else np.float32
    arrays = [
        np.random.default_rng([rank, index]).standard_normal(count).astype(dtype).astype(wide)
        for rank in range(size)
    ]
    return sum(arrays[1:], start=arrays[0]).astype(dtype)


# Tensors larger than a slot are sent in parts, the last one smaller; parts of 16 KiB and more are
# added by shares.
@pytest.mark.parametrize(("size", "slot_bytes"), [(1, 4096), (2, 4096), (2, 20480), (3, 20480)])
def test_ranks_get_same_sum_for_all_sizes_and_types(
    ranks: Ranks, size: int, slot_bytes: int
) -> None:
    group = ranks(size, slot_bytes=slot_bytes)
    for dtype in ("float32", "float64", "float16"):
        for count in (1, 1024, 20001, 0, 8193):
            for process in group:
                send_sum(process, dtype, count, times=4)
            answers = [bytes.fromhex(answer(process)["bytes"]) for process in group]
            assert answers == [total(size, dtype, count, index=3).tobytes()] * size


@pytest.mark.parametrize("count", [257, 9001])
def test_consecutive_sums_do_not_mix(ranks: Ranks, count: int) -> None:
    group = ranks(2)
    for process in group:
        send_sum(process, "float32", count, times=1000)
    expected = total(2, "float32", count, index=999).tobytes().hex()
    assert [answer(process)["bytes"] for process in group] == [expected] * 2


def test_killed_rank_ends_sum_before_timeout(ranks: Ranks) -> None:
    group = ranks(3, timeout_s=30)
    for process in group[:2]:
        send_sum(process, "float32", 100)
    time.sleep(0.2)
    # Not reaped yet: its PID still exists.
    group[2].send_signal(signal.SIGKILL)
    for process in group[:2]:
        result = answer(process)
        assert result["took_s"] < 3
        assert re.search("rank 2 has ended|the group was aborted", result["error"])
    # Later calls do not wait.
    send_sum(group[0], "float32", 100)
    assert answer(group[0])["took_s"] < 0.1


def test_frozen_rank_ends_sum_at_timeout(ranks: Ranks) -> None:
    group = ranks(2, timeout_s=0.5)
    group[1].send_signal(signal.SIGSTOP)
    send_sum(group[0], "float32", 100)
    result = answer(group[0])
    assert 0.5 <= result["took_s"] < 2
    assert "rank 1 did not take part within 0.5 s" in result["error"]
    # After it continues, it gets an error instead of a stale sum.
    send_sum(group[1], "float32", 100)
    group[1].send_signal(signal.SIGCONT)
    assert "the group was aborted" in answer(group[1])["error"]


def test_sum_waits_for_slow_rank(ranks: Ranks) -> None:
    group = ranks(2)
    send_sum(group[0], "float32", 100)
    time.sleep(0.5)
    send_sum(group[1], "float32", 100)
    expected = total(2, "float32", 100).tobytes().hex()
    assert [answer(process)["bytes"] for process in group] == [expected] * 2


def test_ranks_with_different_tensors_get_error(ranks: Ranks) -> None:
    group = ranks(2)
    send_sum(group[0], "float32", 100)
    send_sum(group[1], "float32", 200)
    errors = [answer(process)["error"] for process in group]
    assert any("reduces 400 bytes" in error or "reduces 800 bytes" in error for error in errors)


def test_memory_of_ranks_has_no_name_to_leave(ranks: Ranks) -> None:
    group = ranks(2)
    for process in group:
        send_sum(process, "float32", 100)
    for process in group:
        answer(process)
        # Memory without a name: nothing is left to remove when its last process ends.
        assert "/memfd:headrace-all-reduce" in Path(f"/proc/{process.pid}/maps").read_text()
        assert used_by(process.pid) == set()


def test_open_rejects_wrong_addresses_and_open_ranks(extension: Path) -> None:
    first = aoti.create_group(extension, 2)
    pid, descriptor, token = first.address.split(":")
    assert int(pid) == os.getpid()
    second = aoti.open_group(extension, first.address, 1)
    assert (second.rank, second.size) == (1, 2)
    with pytest.raises(ProgramError, match="rank 1 of this all-reduce is already open"):
        aoti.open_group(extension, first.address, 1)
    with pytest.raises(ProgramError, match="it has ranks 0 to 1"):
        aoti.open_group(extension, first.address, 2)
    with pytest.raises(ProgramError, match="it no longer exists"):
        aoti.open_group(extension, f"{pid}:{descriptor}:{int(token) ^ 1}", 1)
    with pytest.raises(ProgramError, match="rank 0 must run on this node"):
        aoti.open_group(extension, f"{pid}:999999:1", 1)
    with pytest.raises(ProgramError, match="expected an all-reduce's address PID:FD:TOKEN"):
        aoti.open_group(extension, "nowhere", 1)


def test_abort_ends_waiting_sums(extension: Path) -> None:
    group = aoti.create_group(extension, 2, timeout_s=30)
    threading.Timer(0.2, group.abort).start()
    started = time.perf_counter()
    with pytest.raises(RuntimeError, match="the group was aborted"):
        group.all_reduce(np.ones(3, np.float32))
    assert time.perf_counter() - started < 15


def test_all_reduce_rejects_integers(extension: Path) -> None:
    with pytest.raises(ValueError, match="expects floating-point numbers, got Long"):
        aoti.create_group(extension, 1).all_reduce(np.ones(3, np.int64))


# ---------------------------------------------------------------------------- the operator


def in_threads(groups: list[collective.Group], body: Callable[[int], torch.Tensor]) -> list:
    results: list = [None] * len(groups)

    def run(rank: int) -> None:
        with collective.using(groups[rank]):
            results[rank] = body(rank)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(groups))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_operator_sums_over_group_of_its_thread() -> None:
    collective.register()
    groups = collective.thread_groups(3)
    inputs = [torch.full((2, 4), float(rank + 1)) for rank in range(3)]
    results = in_threads(groups, lambda rank: torch.ops.headrace.all_reduce(inputs[rank]))
    for rank, result in enumerate(results):
        assert torch.equal(result, torch.full((2, 4), 6.0))
        assert torch.equal(inputs[rank], torch.full((2, 4), float(rank + 1)))


def test_torch_process_group_sums() -> None:
    from torch.distributed import HashStore, ProcessGroupGloo

    store = HashStore()

    def body(rank: int) -> torch.Tensor:
        group = ProcessGroupGloo(store, rank, 2, timedelta(seconds=20))
        values = torch.full((3, 2), float(rank + 1)).t()
        result = collective.ProcessGroupSum(group).all_reduce(values)
        assert torch.equal(values, torch.full((2, 3), float(rank + 1)))
        return result

    for result in in_threads(collective.thread_groups(2), body):
        assert torch.equal(result, torch.full((2, 3), 3.0))


def test_operator_without_group_explains_the_fix() -> None:
    collective.register()
    with pytest.raises(ProgramError, match="one slice of a model"):
        torch.ops.headrace.all_reduce(torch.ones(2))


def test_thread_group_times_out_without_other_ranks() -> None:
    group = collective.thread_groups(2, timeout_s=0.1)[0]
    with pytest.raises(RuntimeError, match="rank 0 of 2: another rank did not take part"):
        group.all_reduce(torch.ones(2))


def test_python_groups_work_beside_native_runner(
    extension: Path,
) -> None:
    collective.register()
    aoti.create_group(extension, 1)  # loads the extension, which registers its own kernel
    group = collective.thread_groups(1)
    (result,) = in_threads(group, lambda rank: torch.ops.headrace.all_reduce(torch.ones(3)))
    assert torch.equal(result, torch.ones(3))
    with pytest.raises(ProgramError, match="one slice of a model"):
        torch.ops.headrace.all_reduce(torch.ones(2))


def test_native_runner_can_load_before_python_operator(extension: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cluster.program import aoti, collective;"
        f"aoti.create_group(Path({str(extension)!r}), 1); import torch; collective.register();"
        "group, = collective.thread_groups(1)\n"
        "with collective.using(group): print(torch.ops.headrace.all_reduce(torch.ones(2)).sum())"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "tensor(2.)" in process.stdout
    assert "Overriding" not in process.stderr
