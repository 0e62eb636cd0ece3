"""A request that ends a process is refused by the others; its companions are not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from ending_process import NAME, computing, end_while_computing

from cluster.errors import FatalRequestError
from cluster.runtime import fatal_requests
from cluster.runtime.fatal_requests import FatalRequests, Mark

BAD, GOOD = 17, 2**63 + 5


def survivor(directory: Path) -> FatalRequests:
    """Return the requests of this process: the one replica that does not end."""
    return FatalRequests(directory, NAME)


def enter(requests: FatalRequests, digest: int) -> Mark:
    return asyncio.run(requests.enter(digest))


def finish(mark: Mark) -> None:
    mark.queue()
    mark.begin()
    mark.end()
    mark.leave()


def test_request_that_crashed_process_is_refused(tmp_path: Path) -> None:
    requests = survivor(tmp_path)
    end_while_computing(tmp_path, "abort", BAD)
    with pytest.raises(FatalRequestError, match=r"has ended a process .* 0000000000000011"):
        enter(requests, BAD)
    assert not enter(requests, GOOD).alone


def test_second_of_equal_requests_is_known_after_the_first(tmp_path: Path) -> None:
    requests = survivor(tmp_path)
    end_while_computing(tmp_path, "abort after first", BAD, BAD)
    with pytest.raises(FatalRequestError):
        enter(requests, BAD)


def test_new_process_refuses_what_ended_the_one_before(tmp_path: Path) -> None:
    end_while_computing(tmp_path, "abort", BAD)
    end_while_computing(tmp_path, "exit", GOOD)  # which leaves the row of the first one as it is
    with pytest.raises(FatalRequestError):
        enter(survivor(tmp_path), BAD)


def test_killed_process_makes_a_suspect_that_runs_alone(tmp_path: Path) -> None:
    requests = survivor(tmp_path)
    end_while_computing(tmp_path, "kill", GOOD)
    mark = enter(requests, GOOD)
    assert mark.alone
    finish(mark)
    assert not enter(requests, GOOD).alone, "it has run alone and ended nothing"


def test_suspect_that_ends_second_process_is_refused(tmp_path: Path) -> None:
    requests = survivor(tmp_path)
    end_while_computing(tmp_path, "kill", BAD)
    end_while_computing(tmp_path, "kill", BAD)  # alone, as a suspect
    with pytest.raises(FatalRequestError):
        enter(requests, BAD)


def test_companions_of_crash_are_acquitted(tmp_path: Path) -> None:
    requests = survivor(tmp_path)
    end_while_computing(tmp_path, "abort", BAD, GOOD)
    mark = enter(requests, GOOD)
    assert mark.alone
    finish(mark)
    assert not enter(requests, GOOD).alone
    with pytest.raises(FatalRequestError):  # it is the only one left
        enter(requests, BAD)


def test_suspect_runs_once_at_a_time(tmp_path: Path) -> None:
    requests = survivor(tmp_path)
    end_while_computing(tmp_path, "kill", GOOD)

    async def run() -> None:
        mark = await requests.enter(GOOD)
        waiting = asyncio.create_task(requests.enter(GOOD))
        await asyncio.sleep(3 * fatal_requests.POLL_S)
        assert not waiting.done()
        # A client that disconnects does not end the trial: the program still runs.
        mark.begin()
        mark.leave()
        await asyncio.sleep(3 * fatal_requests.POLL_S)
        assert not waiting.done()
        mark.end()
        assert not (await asyncio.wait_for(waiting, 10)).alone

    asyncio.run(run())


def test_suspect_waits_while_another_process_runs_it(tmp_path: Path) -> None:
    requests = survivor(tmp_path)
    end_while_computing(tmp_path, "kill", GOOD)

    async def run() -> None:
        with computing(tmp_path, GOOD):
            waiting = asyncio.create_task(requests.enter(GOOD))
            await asyncio.sleep(3 * fatal_requests.POLL_S)
            assert not waiting.done()
        assert not (await asyncio.wait_for(waiting, 10)).alone

    asyncio.run(run())


def test_content_in_flight_elsewhere_is_no_suspect(tmp_path: Path) -> None:
    requests = survivor(tmp_path)
    with computing(tmp_path, GOOD, GOOD):
        assert not enter(requests, GOOD).alone
    assert not enter(requests, GOOD).alone


def test_old_suspects_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = survivor(tmp_path)
    end_while_computing(tmp_path, "abort", BAD)
    monkeypatch.setattr(fatal_requests, "KEPT_S", 0.0)
    assert not enter(requests, BAD).alone


def test_requests_beyond_the_entries_run_unmarked(tmp_path: Path) -> None:
    requests = survivor(tmp_path)
    marks = [enter(requests, GOOD) for _ in range(fatal_requests.ENTRIES + 2)]
    for mark in marks:
        finish(mark)
    finish(enter(requests, GOOD))
    assert not any(requests.states)
