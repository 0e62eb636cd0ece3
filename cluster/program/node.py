"""What this node can run: its CPU's features and the installed PyTorch."""

from __future__ import annotations

import os
import platform
import re
import sysconfig
from functools import cache
from importlib import metadata
from pathlib import Path

_CODE_FEATURES = re.compile(
    r"^(s?sse\d?|sse4|avx|amx|fma|f16c|bmi|gfni|vaes|vpclmul|movbe|adx|popcnt|abm|lzcnt)"
)
"""CPU flags that a compiler told to use this CPU fully (-march=native) may emit code for."""


@cache
def cpu_features() -> frozenset[str]:
    """The flags of /proc/cpuinfo that compiled code can depend on."""
    text = Path("/proc/cpuinfo").read_text()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "flags :")
    return frozenset(flag for flag in line.partition(":")[2].split() if _CODE_FEATURES.match(flag))


@cache
def cpu_name() -> str:
    """The CPU's model name as /proc/cpuinfo gives it."""
    text = Path("/proc/cpuinfo").read_text()
    line = next((line for line in text.splitlines() if line.startswith("model name")), ":unknown")
    return line.partition(":")[2].strip()


def cpus() -> int:
    """CPUs that this process may use: those of its affinity mask, not all of the machine's."""
    return len(os.sched_getaffinity(0))


def targets() -> tuple[str, ...]:
    """Program targets that exist on this node, fastest first."""
    return ("cpu-x86",) if platform.machine() == "x86_64" else ()


def torch_version() -> str:
    """Version of the installed PyTorch, found without importing it."""
    return metadata.version("torch").partition("+")[0]


def python_abi() -> str:
    """Tag of this interpreter's extension ABI, such as ``cpython-311-x86_64-linux-gnu``."""
    return str(sysconfig.get_config_var("SOABI"))
