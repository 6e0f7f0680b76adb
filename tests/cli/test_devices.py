"""A run goes on where another number of devices began it."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.cli import support


def test_a_state_is_the_same_on_eight_devices_on_one_and_on_eight_again(tmp_path):
  seen = []
  for devices in (8, 1, 8):
    command = [sys.executable, "-W", "error", "-m", "tests.resharded", tmp_path, str(devices)]
    seen.append(json.loads(subprocess.check_output(command, cwd=support.REPOSITORY)))
  assert [one["step"] for one in seen] == [0, 1, 2]
  assert len({one["digest"] for one in seen}) == 1
  assert [one["part"][-1] for one in seen] == [2, 16, 2]


@pytest.mark.slow
def test_a_run_goes_on_on_one_device_and_then_on_eight_again(
  finished, cache, tmp_path, monkeypatch
):
  folder, flags = tmp_path / "run", os.environ["XLA_FLAGS"]

  def devices(count):
    monkeypatch.setenv("XLA_FLAGS", f"{flags} --xla_force_host_platform_device_count={count}")
    return {"mesh__fsdp": count, "save_every": 1}

  for count, line in ((8, "iteration 2 "), (1, "iteration 6 ")):
    with support.started(cache, folder, **devices(count)) as process:
      support.interrupt(process, signal.SIGTERM, at=line)
      assert process.wait() == 128 + signal.SIGTERM
  support.ran(cache, folder, **devices(8))

  sessions = json.loads((folder / "config.json").read_text())["sessions"]
  assert [len(session["devices"]) for session in sessions] == [8, 1, 8]
  ours, theirs = (support.journal(where) for where in (folder, finished.folder))
  for mine, other in zip(ours, theirs, strict=True):
    assert mine["t"] == other["t"]
    assert mine["loss"] == pytest.approx(other["loss"], rel=1e-3, abs=1e-4)  # of about 0.1
  grids = [np.asarray(Image.open(f / "grid.png"), int) for f in (folder, finished.folder)]
  assert np.abs(grids[0] - grids[1]).max() <= 2
