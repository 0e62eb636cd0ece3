"""Hosts on this machine: network namespaces on a bridge, each with its address.

    Network ── bridge (a namespace too) ── veth ── Host 10.77.0.2, 10.77.0.3, ...

Nothing is added to the machine's network, so nothing here can reach past the bridge. The kernel's
packet filter inside the host drops packets; `tc netem` could too, but some kernels lack it. A host
that is cut off sends and receives nothing, and no connection is reset.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_PREFIX = "headrace"
_FILTER = "table inet lab"


def missing() -> str | None:
    """Return the reason for which this machine cannot have such a network; None if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for command in ("ip", "nft", "unshare", "nsenter", "setpriv"):
        if shutil.which(command) is None:
            return f"no `{command}`: install iproute2, nftables and util-linux"
    try:
        with Network() as network:
            network.add().cut()
        _run("unshare", "-mpf", "--mount-proc", "mount", "-t", "tmpfs", "tmpfs", "/mnt")
    except OSError as error:
        return f"no namespaces with a bridge, veth, a packet filter and mounts here: {error}"
    return None


@dataclass(frozen=True)
class Host:
    """A network namespace with one address on the bridge."""

    name: str
    """Name of the namespace."""
    address: str

    def call(self, function: Callable[..., T], *args: Any, **named: Any) -> T:
        """Call ``function(...)`` in a thread whose sockets are this host's; raise its errors."""
        with ThreadPoolExecutor(1, initializer=self.enter) as thread:
            return thread.submit(function, *args, **named).result()

    def enter(self) -> None:
        """Move this thread into the host: sockets opened later belong to it."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path(f"/run/netns/{self.name}").open() as namespace:
            if libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"cannot enter {self.name}")

    @property
    def is_there(self) -> bool:
        """False once its namespace is removed."""
        return Path(f"/run/netns/{self.name}").exists()

    @property
    def processes(self) -> list[int]:
        """Ids of the processes on the host."""
        return [int(pid) for pid in _run("ip", "netns", "pids", self.name).split()]

    def lose(self, percent: int) -> None:
        """Drop that percentage of the packets from other hosts; 0 disables it."""
        self._filter(f"numgen random mod 100 < {percent} drop" if percent else "", "")

    def cut(self) -> None:
        """Drop every packet in both directions: no connection is reset."""
        self._filter("drop", "drop")

    def mend(self) -> None:
        """Drop no packets any more."""
        self._filter("", "")

    def _filter(self, arriving: str, leaving: str) -> None:
        chains = [
            f"chain {hook} {{ type filter hook {hook} priority 0; {name} lo accept; {rule}; }}\n"
            for hook, name, rule in (
                ("input", "iifname", arriving),
                ("output", "oifname", leaving),
            )
            if rule
        ]
        # Added first, because deleting an absent table is an error.
        text = f"{_FILTER} {{}}\ndelete {_FILTER}\n{_FILTER} {{\n{''.join(chains)}}}"
        _run("ip", "netns", "exec", self.name, "nft", "-f", "-", text=text)


@dataclass
class Network:
    """Context manager of the hosts; removes every namespace at its end."""

    hosts: list[Host] = field(default_factory=list)

    def __enter__(self) -> Network:
        _sweep()
        self._prefix = f"{_PREFIX}{os.getpid()}"
        self._bridge = f"{self._prefix}b"
        _run("ip", "netns", "add", self._bridge)
        try:
            _run("ip", "-n", self._bridge, "link", "add", "br0", "type", "bridge")
            _run("ip", "-n", self._bridge, "link", "set", "br0", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as after:  # runs each one, also after errors
            for name in [*(host.name for host in self.hosts), self._bridge]:
                after.callback(_run, "ip", "netns", "del", name)  # with its end of the cable

    def add(self) -> Host:
        """Add a host, reachable from all others."""
        number = len(self.hosts) + 1
        host = Host(f"{self._prefix}h{number}", f"10.77.0.{number}")
        _run("ip", "netns", "add", host.name)
        self.hosts.append(host)
        cable = f"port{number}"
        _run(
            *("ip", "-n", self._bridge, "link", "add", cable, "type", "veth"),
            *("peer", "name", "eth0", "netns", host.name),
        )
        _run("ip", "-n", self._bridge, "link", "set", cable, "master", "br0", "up")
        for arguments in (
            ("address", "add", f"{host.address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            _run("ip", "-n", host.name, *arguments)
        return host


def _sweep() -> None:
    """Remove the namespaces of killed runs, whose processes have ended."""
    for line in _run("ip", "netns", "list").splitlines():
        name = line.split()[0]
        match = re.fullmatch(rf"{_PREFIX}(\d+)[a-z]\w*", name)
        if match and not Path(f"/proc/{match[1]}").exists():
            _run("ip", "netns", "del", name)


def _run(*command: str, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
