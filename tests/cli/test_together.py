"""Edits that share a program come out as alone, whatever becomes of their neighbours."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from imx2mx_jax import checkpoint
from tests import tiny
from tests.cli import support
from tests.cli.test_resume import result

CLOSE = 1e-5
DIVERGES = 3  # the line whose updates are not finite
TOTAL = 8  # iterations
LINES = [
  {"instruction": "make it day", "overrides": {"seed": 1}},
  {"instruction": "make it sunset", "overrides": {"seed": 2, "scene.frames": "5,7"}},
  {"instruction": "make it night", "overrides": {"teacher.text_guidance": 1e38}},
  {"instruction": "make it sunset", "overrides": {"seed": 3, "teacher.text_guidance": 7}},
  {"instruction": "make it night", "overrides": {"seed": 5}},
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  return tiny.models(tmp_path_factory.mktemp("models"))


def started(cache, models, out, devices, **settings):
  """The list's process on so many devices."""
  scene = {"scene": str(support.SMALL["scene.path"])}
  file = out.parent / "jobs.jsonl"
  file.write_text("\n".join(json.dumps(scene | line) for line in LINES))
  names = {name.replace("__", "."): value for name, value in settings.items()}
  own = {"distill.reference": "source", "optim.max_skipped": 4, **names}
  fields = tiny.SETTINGS | models | own
  flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
  command = [sys.executable, "-W", "error", "-m", "imx2mx_jax.batch", support.CONFIG]
  command += [f"--config.{name}={value}" for name, value in fields.items()]
  return subprocess.Popen(
    [*command, f"--jobs={file}", f"--out={out}"],
    cwd=support.REPOSITORY,
    env=os.environ | {"XLA_FLAGS": flags, "JAX_COMPILATION_CACHE_DIR": str(cache)},
    stdout=subprocess.PIPE,
    text=True,
  )


def ran(*args, **settings):
  """What a list in which one edit fails has printed."""
  with started(*args, **settings) as process:
    printed, _ = process.communicate()
  assert process.returncode == 1, printed
  return printed.splitlines()


PAIRS = {"devices": 8, "mesh__edit": 2, "mesh__fsdp": 1}


@pytest.fixture(scope="module")
def alone(cache, models, tmp_path_factory):
  out = tmp_path_factory.mktemp("alone") / "out"
  ran(cache, models, out, devices=1)
  return out


@pytest.fixture(scope="module")
def stopped(cache, models, tmp_path_factory):
  """Two at a time, stopped by a signal while the first two iterate."""
  out = tmp_path_factory.mktemp("together") / "out"
  with started(cache, models, out, **PAIRS) as process:
    lines = support.interrupt(process, signal.SIGTERM, at="line 2: iteration 2 ")
    assert process.wait() == 128 + signal.SIGTERM
  return out, lines, folders(out)


@pytest.fixture(scope="module")
def together(cache, models, stopped):
  """The same, gone on with to the end; the last edit has an empty seat beside it."""
  out, _, _ = stopped
  ran(cache, models, out, **PAIRS)
  return out


@pytest.fixture(scope="module")
def undisturbed(cache, models, tmp_path_factory):
  out = tmp_path_factory.mktemp("undisturbed") / "out"
  ran(cache, models, out, **PAIRS)
  return out


def folders(out):
  rows = json.loads((out / "summary.json").read_text())["edits"]
  return {row["line"]: (out / row["folder"], row) for row in rows}


def state(folder, step=TOTAL):
  at = folder / "state" / str(step)
  return checkpoint.restore(at, checkpoint.contents(at))


def assert_same_edit(one, other):
  for mine, theirs in zip(support.journal(one), support.journal(other), strict=True):
    assert mine["t"] == theirs["t"] and mine["key_view"] == theirs["key_view"]
    assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=CLOSE)
  states = state(one), state(other)
  for name in ("latents", "prediction"):
    mine, theirs = (np.asarray(held[name]) for held in states)
    assert np.abs(mine - theirs).max() < CLOSE * np.abs(theirs).max()
  for name, theirs in states[1].items():
    if name.startswith("params"):
      np.testing.assert_allclose(states[0][name], theirs, atol=CLOSE, rtol=CLOSE)
  grids = [np.asarray(Image.open(folder / "grid.png"), int) for folder in (one, other)]
  assert np.abs(grids[0] - grids[1]).max() <= 1


def assert_same_bits(out, other):
  theirs = folders(other)
  for line, (folder, row) in folders(out).items():
    assert row["status"] == theirs[line][1]["status"]
    if row["status"] == "finished":
      assert result(folder, TOTAL) == result(theirs[line][0], TOTAL)
      assert support.journal(folder) == support.journal(theirs[line][0])


@pytest.mark.slow
def test_edits_that_share_a_program_come_out_as_alone(alone, together):
  ours, theirs = folders(together), folders(alone)
  for line in (1, 2, 4, 5):
    assert_same_edit(ours[line][0], theirs[line][0])


@pytest.mark.slow
@pytest.mark.parametrize("rows, chips", [(2, 4), (-1, 1)])
def test_so_they_do_on_eight_chips(alone, cache, models, tmp_path, rows, chips):
  ran(cache, models, tmp_path / "out", devices=8, mesh__edit=rows, mesh__fsdp=chips)
  ours, theirs = folders(tmp_path / "out"), folders(alone)
  for line in (1, 2, 4, 5):
    assert_same_edit(ours[line][0], theirs[line][0])


@pytest.mark.slow
def test_what_becomes_of_one_is_no_matter_to_its_neighbours(alone, together):
  for out in (alone, together):
    rows = {line: row for line, (_, row) in folders(out).items()}
    failed = [line for line, row in rows.items() if row["status"] == "failed"]
    assert failed == [DIVERGES]
    assert "4 updates in a row, up to iteration 4, were not finite" in rows[DIVERGES]["error"]


@pytest.mark.slow
def test_a_signal_stops_the_edits_of_a_program_where_they_can_go_on(stopped):
  _, lines, found = stopped
  assert len([line for line in lines if line.startswith("stopped; ")]) == 2
  assert [row["status"] for _, row in found.values()] == ["stopped"] * 2 + ["waiting"] * 3
  for line in (1, 2):
    assert (found[line][0] / "state").exists()


@pytest.mark.slow
def test_edits_that_were_stopped_end_as_if_they_were_not(together, undisturbed):
  assert_same_bits(together, undisturbed)


@pytest.mark.slow
def test_edits_go_on_together_from_different_iterations(undisturbed, cache, models, tmp_path):
  """As after a kill between the one's saving and the other's."""
  out = shutil.copytree(undisturbed, tmp_path / "out")
  for line in (1, 2):
    (folders(out)[line][0] / "finished.json").unlink()
  shutil.rmtree(folders(out)[2][0] / "state" / str(TOTAL))
  lines = ran(cache, models, out, **PAIRS)
  assert [line for line in lines if line.startswith("going on after")][:2] == [
    f"going on after {TOTAL} iterations",
    "going on after 4 iterations",
  ]
  assert_same_bits(out, undisturbed)
