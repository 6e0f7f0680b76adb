"""The step is laid out for a TPU by its own compiler, which is no part of the environment."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

LIBTPU = os.environ.get("LIBTPU", "")


@pytest.mark.skipif(
  not pathlib.Path(LIBTPU, "libtpu").is_dir(),
  reason="no TPU compiler: pip install --no-deps --target FOLDER libtpu, and LIBTPU=FOLDER",
)
def test_a_small_step_fits_the_chips_of_a_host():
  command = ["-m", "benchmarks.tpu_fit", "--size=micro", "--topology=v5e:2x4"]
  printed = subprocess.check_output(
    [sys.executable, *command, "--mesh=edit:2,fsdp:4"],
    cwd=pathlib.Path(__file__).parents[1],
    env=os.environ | {"PYTHONPATH": LIBTPU},
    stderr=subprocess.DEVNULL,
    text=True,
  )
  found = json.loads(printed.splitlines()[-1])
  assert found["edits"] == 2 and found["mesh"] == "edit:2,fsdp:4"
  assert 0 < found["hbm_gb_per_chip"] < 1 < found["hbm_gb_limit"]
  assert 0.95 < found["flops_per_chip"] * 4 / found["model_flops"] < 1.35
  assert " 0.00 GB alone" not in printed and "links: 0.00 GB" not in printed
  assert 0 < found["minutes"] < 60 and 0 < found["share_of_peak"] < 1
