"""What this node can run: its CPU's features, its GPU, and the installed packages."""

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


CPUS_VARIABLE = "HEADRACE_CPUS"
"""Set for a process that was given only some of its machine's CPUs, such as a Ray task."""


def cpus() -> int:
    """CPUs that this process may use: those it was given, else those of its affinity mask."""
    return int(os.environ.get(CPUS_VARIABLE, "0")) or len(os.sched_getaffinity(0))


def targets() -> tuple[str, ...]:
    """Program targets that exist on this node, fastest first, whoever the GPUs are meant for."""
    cpu = ("cpu-x86",) if platform.machine() == "x86_64" else ()
    return (*_cuda_targets(os.environ.get("CUDA_VISIBLE_DEVICES")), *cpu)


@cache
def _cuda_targets(visible: str | None) -> tuple[str, ...]:
    """``cuda-smNN`` of the first GPU that this process may use; PyTorch is not imported to ask.

    ``visible``: CUDA_VISIBLE_DEVICES, which Ray sets for actors that it gives GPUs, and leaves
    alone for the others.
    """
    query = shutil.which("nvidia-smi")
    if query is None or visible == "":
        return ()
    command = [query, "--query-gpu=compute_cap", "--format=csv,noheader"]
    if visible is not None:
        command.append(f"--id={visible.partition(',')[0]}")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ()  # the tool without a driver: there is no GPU to use
    found = re.match(r"(\d+)\.(\d+)", done.stdout)
    return (f"cuda-sm{found[1]}{found[2]}",) if found else ()


def version_of(package: str) -> str | None:
    """Version of an installed package, found without importing it; None if it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def torch_version() -> str:
    """Version of the installed PyTorch, found without importing it."""
    return metadata.version("torch").partition("+")[0]


def python_abi() -> str:
    """Tag of this interpreter's extension ABI, such as ``cpython-311-x86_64-linux-gnu``."""
    return str(sysconfig.get_config_var("SOABI"))
