"""Where and when a figure was taken."""

import datetime
import os
import pathlib
import re
import subprocess

import jax


def describe() -> str:
  """Date, processor, load, versions and commit, in one line."""
  cpu = re.search(r"model name\s*: (.+)", pathlib.Path("/proc/cpuinfo").read_text())
  memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
  commit = subprocess.run(
    ["git", "describe", "--always", "--dirty"],
    cwd=pathlib.Path(__file__).parent,
    capture_output=True,
    text=True,
  )
  return (
    f"{datetime.date.today()}, {cpu[1] if cpu else 'unknown CPU'}, {os.cpu_count()} cores, "
    f"{memory:.0f} GB, load {os.getloadavg()[0]:.1f} before, "
    f"{jax.devices()[0].platform}, jax {jax.__version__}, commit {commit.stdout.strip()}"
  )


def forget_peak_memory() -> None:
  """From here on `peak_memory` counts anew. Linux."""
  pathlib.Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> float:
  """The most memory of the machine that this process held, in GB. Linux."""
  status = pathlib.Path("/proc/self/status").read_text()
  return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024 / 1e9
