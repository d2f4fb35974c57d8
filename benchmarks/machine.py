"""Facts of the machine that a run's figures depend on."""

import os
import platform
from pathlib import Path
from typing import Any

from benchmarks.processes import Failed, run


def facts(folder: Path) -> dict[str, Any]:
    """Of this machine, and of the disk under *folder*."""
    memory_kib = next(
        int(line.split()[1])
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemTotal")
    )
    device, kind = _said(["findmnt", "-n", "-o", "SOURCE,FSTYPE", "-T", folder]).split(maxsplit=1)
    return {
        "kernel": os.uname().release,
        "architecture": os.uname().machine,
        "processors": len(os.sched_getaffinity(0)),
        "model": _model(),
        "memory_bytes": memory_kib * 1024,
        "disk": device,
        "file_system": kind,
        "system": _said(["sh", "-c", '. /etc/os-release; echo "$PRETTY_NAME"'], "Linux"),
        "python": platform.python_version(),
        "fio": _said(["fio", "--version"], "missing"),
        "load_average": os.getloadavg()[0],
    }


def _said(command: list[object], otherwise: str = "unknown unknown") -> str:
    try:
        return run(command, 10.0).strip() or otherwise
    except Failed:
        return otherwise


def _model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"
