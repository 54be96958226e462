"""The environment of a run, as its report states it."""

from __future__ import annotations

import datetime
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from lossspec.report.records import Environment, Oracle, own_version


class Surroundings:
    """The start time and command of a run, and the machine and packages it runs with."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = shlex.join(command)
        self.started = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    @cached_property
    def commit(self) -> str | None:
        """The git commit of the working directory; None if it is not a git checkout."""
        try:
            done = subprocess.run(
                ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() or None

    def environment(self, devices: Sequence[str]) -> Environment:
        """Return the environment as the report stores it, with the names of the devices."""
        return Environment(
            lossspec=own_version(),
            python=platform.python_version(),
            platform=platform.platform(),
            processor=_processor(),
            torch=torch.__version__,
            numpy=np.__version__,
            hypothesis=version("hypothesis"),
            devices={device: _device_name(device) for device in devices},
            threads=torch.get_num_threads(),
            started=self.started,
            command=self.command,
            oracle=Oracle("longdouble", int(np.finfo(np.longdouble).nmant) + 1),
            git_commit=self.commit,
        )


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or sys.platform


def _device_name(device: str) -> str:
    if device.startswith("cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name(device)
    return _processor() if device == "cpu" else device
