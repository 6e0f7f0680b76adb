"""The step is laid out for a TPU by its own compiler, which is no part of the environment."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

LIBTPU = os.environ.get("LIBTPU", "")


needs_libtpu = pytest.mark.skipif(
  not pathlib.Path(LIBTPU, "libtpu").is_dir(),
  reason="no TPU compiler: pip install --no-deps --target FOLDER libtpu, and LIBTPU=FOLDER",
)


def laid_out(mesh):
  """What is printed of the bundled models' shapes, and its last line."""
  command = ["-m", "benchmarks.tpu_fit", "--size=micro", "--topology=v5e:2x4", f"--mesh={mesh}"]
  printed = subprocess.check_output(
    [sys.executable, *command],
    cwd=pathlib.Path(__file__).parents[1],
    env=os.environ | {"PYTHONPATH": LIBTPU},
    stderr=subprocess.DEVNULL,
    text=True,
  )
  return printed, json.loads(printed.splitlines()[-1])


@needs_libtpu
def test_a_small_step_fits_the_chips_of_a_host():
  printed, found = laid_out("edit:2,fsdp:4")
  assert found["edits"] == 2 and found["mesh"] == "edit:2,fsdp:4"
  assert 0 < found["hbm_gb_per_chip"] < 1 < found["hbm_gb_limit"]
  assert 0.95 < found["flops_per_chip"] * 4 / found["model_flops"] < 1.35
  beside, alone = map(
    float, re.search(r"links: (\S+) GB beside .* (\S+) GB alone", printed).groups()
  )
  assert 0 < beside + alone < 0.1
  assert 0 < found["minutes"] < 60 and 0 < found["share_of_peak"] < 1


@pytest.mark.slow
@needs_libtpu
def test_so_does_a_small_training():
  _, found = laid_out("data:8")
  assert found["mesh"] == "data:8" and found["sets_per_second"] > 0
  assert 0 < found["hbm_gb_per_chip"] < 1
  assert 0.95 < found["flops_per_chip"] / found["model_flops"] < 1.6
