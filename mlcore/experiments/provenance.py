"""Where, when and with which code a run was made."""

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
from torch import nn


def machine(learner: nn.Module) -> dict[str, Any]:
    """What ran a learner: device, processor, threads, versions and the code's commit, and the day."""
    device = next((p.device for p in learner.parameters()), torch.device("cpu"))
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def processor() -> str:
    """The processor's model name, or what the system says in its place."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The code's git commit; ``$MLCORE_COMMIT`` names it where a run has the files without their history."""
    if "MLCORE_COMMIT" in os.environ:
        return os.environ["MLCORE_COMMIT"]
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
