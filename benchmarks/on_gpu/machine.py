"""What the figures were measured on."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch

from on_gpu.clock import copy_bandwidth


def describe(kernel: str) -> dict[str, object]:
    """The device, its driver, its bandwidth, and how the fused kernel came to be."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "driver": _driver(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "kernel": kernel,
        "copy_gb_per_s": copy_bandwidth() / 1e9,
    }


def _driver() -> str:
    """The driver's version from nvidia-smi, or on a Jetson, whose nvidia-smi knows little, the release of L4T."""
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout.splitlines()[0].strip()
    except (OSError, subprocess.SubprocessError, IndexError):
        release = Path("/etc/nv_tegra_release")
        return release.read_text().splitlines()[0].lstrip("# ") if release.is_file() else "unknown"
