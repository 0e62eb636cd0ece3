"""Capabilities of this node: CPU features, GPU and installed packages."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sysconfig
from functools import cache
from importlib import metadata
from pathlib import Path

_CODE_FEATURES = re.compile(
    r"^(s?sse\d?|sse4|avx|amx|fma|f16c|bmi|gfni|vaes|vpclmul|movbe|adx|popcnt|abm|lzcnt)"
)
"""CPU flags for which a compiler may emit code under -march=native."""


@cache
def cpu_features() -> frozenset[str]:
    """Return the flags of /proc/cpuinfo on which compiled code can depend."""
    text = Path("/proc/cpuinfo").read_text()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "flags :")
    return frozenset(flag for flag in line.partition(":")[2].split() if _CODE_FEATURES.match(flag))


@cache
def cpu_name() -> str:
    """Return the CPU's model name from /proc/cpuinfo."""
    text = Path("/proc/cpuinfo").read_text()
    line = next((line for line in text.splitlines() if line.startswith("model name")), ":unknown")
    return line.partition(":")[2].strip()


CPUS_VARIABLE = "HEADRACE_CPUS"
"""Environment variable: CPUs of a process limited to some of its machine's, such as a Ray task."""


def cpus() -> int:
    """Return the number of CPUs that this process may use.

    The value of :data:`CPUS_VARIABLE` if set, else the size of the affinity mask.
    """
    return int(os.environ.get(CPUS_VARIABLE, "0")) or len(os.sched_getaffinity(0))


def targets() -> tuple[str, ...]:
    """Return the program targets of this node, fastest first, including GPUs of other processes."""
    cpu = ("cpu-x86",) if platform.machine() == "x86_64" else ()
    return (*_cuda_targets(os.environ.get("CUDA_VISIBLE_DEVICES")), *cpu)


@cache
def _cuda_targets(visible: str | None) -> tuple[str, ...]:
    """Return ``cuda-smNN`` of the first visible GPU, without importing PyTorch.

    ``visible``: CUDA_VISIBLE_DEVICES, which Ray sets for actors with GPUs only.
    """
    query = shutil.which("nvidia-smi")
    if query is None or visible == "":
        return ()
    command = [query, "--query-gpu=compute_cap", "--format=csv,noheader"]
    if visible is not None:
        command.append(f"--id={visible.partition(',')[0]}")
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ()  # the tool is installed without a driver: no usable GPU
    capability = re.match(r"(\d+)\.(\d+)", process.stdout)
    return (f"cuda-sm{capability[1]}{capability[2]}",) if capability else ()


def installed_version(package: str) -> str | None:
    """Return the version of an installed package without importing it, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def torch_version() -> str:
    """Return the version of the installed PyTorch without importing it."""
    return metadata.version("torch").partition("+")[0]


def python_abi() -> str:
    """Return the tag of this interpreter's extension ABI, e.g. ``cpython-311-x86_64-linux-gnu``."""
    return str(sysconfig.get_config_var("SOABI"))
