"""A run that is stopped, killed or out of disk goes on where it was, as if nothing had happened."""

import json
import os
import shutil
import signal

import numpy as np
import pytest

from imx2mx_jax import checkpoint, config, pictures, run_folder, weights
from imx2mx_jax.scene import load_scene
from tests.cli import support
from tests.cli.conftest import Finished
from tests.cli.test_main import events

TOTAL, SAVED_EVERY = 40, 20  # iterations, which take a tenth of a second


def result(folder, total=support.TOTAL):
  """All that must come out the same, bit for bit."""
  contents = {path.name: path.read_bytes() for path in sorted((folder / "edited").iterdir())}
  contents |= {name: (folder / name).read_bytes() for name in ("grid.png", "reference.png")}
  for arrays in (folder / "student" / "seva" / "0", folder / "state" / str(total)):
    held = checkpoint.restore(arrays, checkpoint.contents(arrays))
    contents |= {f"{arrays.name}/{name}": array.tobytes() for name, array in held.items()}
  return contents


@pytest.fixture(scope="module")
def models(models) -> dict[str, object]:
  """Models that compile soon, and so many iterations that a signal falls among them."""
  long = {"distill.iterations_first": TOTAL - 4, "save_every": SAVED_EVERY, "image_every": 20}
  return models | long


@pytest.fixture(scope="module")
def finished(cache, models, tmp_path_factory) -> Finished:
  """A run that nothing disturbed."""
  folder = tmp_path_factory.mktemp("finished") / "run"
  return Finished(folder, support.ran(cache, folder, **models), 0.0)


def unfinished(finished, folder, *missing):
  """A copy of the finished run as it was before its last pictures were written."""
  shutil.copytree(finished.folder, folder)
  for name in ("finished.json", *missing):
    (folder / name).unlink()
  return folder


def test_a_run_that_was_stopped_and_killed_ends_as_one_that_was_not(
  finished, cache, models, tmp_path
):
  folder = tmp_path / "run"
  with support.started(cache, folder, **models) as process:
    lines = support.interrupt(process, signal.SIGINT, at="iteration 2 ")
    assert process.wait() == 130
  saved = max(int(state.name) for state in (folder / "state").glob("[0-9]*"))
  assert "same command goes on" in lines[-2] and lines[-1] == str(folder)
  assert 2 <= saved < TOTAL
  assert len(support.journal(folder)) == saved

  with support.started(cache, folder, **models) as process:
    lines = support.interrupt(process, signal.SIGKILL, at="iteration")
    assert process.wait() == -signal.SIGKILL
  assert f"going on after {saved} iterations" in lines

  lines = support.ran(cache, folder, **models)
  assert any(line.startswith("going on after") for line in lines)
  assert result(folder, TOTAL) == result(finished.folder, TOTAL)
  assert support.journal(folder) == support.journal(finished.folder)
  assert list(events(folder)["loss"]) == list(range(1, TOTAL + 1))
  sessions = json.loads((folder / "config.json").read_text())["sessions"]
  assert [session["from_iteration"] for session in sessions][:2] == [0, saved]


def test_a_full_disk_costs_nothing_that_was_saved(finished, cache, models, tmp_path):
  folder = unfinished(finished, tmp_path / "run", "grid.png")
  (folder / ".grid.png.tmp").symlink_to("/dev/full")  # as full as a disk can be
  with support.started(cache, folder, **models) as process:
    _, error = process.communicate()
    assert process.returncode == 1
  assert error.startswith(f"error: {folder}: the disk is full") and error.count("\n") == 1
  assert f"after {TOTAL} iterations" in error and not (folder / "finished.json").exists()

  # It goes on with all that changes no result: where the scene lies, what is saved, the chips.
  (folder / ".grid.png.tmp").unlink()
  scene = shutil.copytree(support.SMALL["scene.path"], tmp_path / "elsewhere")
  changes = {"scene.path": scene, "save_every": 1, "image_every": 0, "mesh.fsdp": 1}
  support.ran(cache, folder, **models | changes)
  assert result(folder, TOTAL) == result(finished.folder, TOTAL)


@pytest.mark.parametrize(
  "change, was",
  [
    ({"instruction": "make it night"}, "--config.instruction was 'make it sunset'"),
    ({"distill__dt": 200}, "--config.distill.dt was 400"),
  ],
)
def test_a_run_goes_on_with_what_it_began_with_only(
  finished, models, tmp_path, capsys, change, was
):
  folder = unfinished(finished, tmp_path / "run")
  error = support.refused(capsys, folder, **models, **change)
  assert was in error and "--config.run_dir" in error


def test_a_reference_comes_back_however_it_lay_in_memory(tmp_path):
  run = config.resolve(config.parse(["main", *support.arguments(tmp_path / "run")]))
  scene = load_scene(run.scene.path, run.scene.frames, size=run.student.hw)
  reference = scene.images[0].swapaxes(0, 1)
  with run_folder.opened(run) as folder:
    folder.begin(scene, pictures.to_uint8(reference), {"reference": reference})
  with run_folder.opened(run) as folder:
    arrays, state = folder.saved(scene, lambda: None)
  assert state is None
  np.testing.assert_array_equal(arrays["reference"], reference)


def test_another_scene_is_noticed_by_what_it_holds(finished, models, tmp_path, capsys):
  folder = unfinished(finished, tmp_path / "run")
  scene = shutil.copytree(support.SMALL["scene.path"], tmp_path / "scene")
  shutil.copy(scene / "images" / "001.png", scene / "images" / "002.png")
  error = support.refused(capsys, folder, **models, scene__path=scene)
  assert f"--config.scene.path was '{support.SMALL['scene.path']}'" in error


def test_a_scene_that_was_changed_in_its_place_is_noticed(finished, models, tmp_path, capsys):
  folder = unfinished(finished, tmp_path / "run")
  kept = json.loads((folder / "config.json").read_text())
  kept["read"]["scene.path"] = "the fingerprint of other pictures"
  (folder / "config.json").write_text(json.dumps(kept))
  assert "--config.scene.path has other content" in support.refused(capsys, folder, **models)


@pytest.mark.parametrize(("allowed", "end"), [(3, 4), (TOTAL + 9, TOTAL)])
def test_a_run_whose_updates_are_lost_ends_with_the_last_good_state(
  cache, models, tmp_path, allowed, end
):
  folder = tmp_path / "run"
  lost = {"teacher__text_guidance": 1e38, "distill__reference": "source"}
  with support.started(cache, folder, optim__max_skipped=allowed, **models, **lost) as process:
    _, error = process.communicate()
    assert process.returncode == 1
  assert error.startswith(
    f"error: {folder}: {end} updates in a row, up to iteration {end}, were not finite"
  )
  assert error.count("\n") == 1 and f"after {end} iterations, is kept" in error
  arrays, *_ = (folder / "state").glob("[0-9]*")
  state = checkpoint.restore(arrays, checkpoint.contents(arrays))
  student = weights.load(models["student.weights"], "student")["seva"]
  for name, array in student.params.items():
    assert (state[f"params.student.{name}"] == array).all()


def torn(state):
  """Every file of the state loses its second half."""
  for file in state.rglob("*"):
    if file.is_file():
      os.truncate(file, file.stat().st_size // 2)
  return state


def test_after_a_damaged_state_a_run_goes_on_from_the_one_before(finished, cache, models, tmp_path):
  folder = unfinished(finished, tmp_path / "run")
  damaged = torn(folder / "state" / str(TOTAL))
  lines = support.ran(cache, folder, **models)
  assert any(line.startswith(f"{damaged} cannot be read") for line in lines)
  assert f"going on after {TOTAL - SAVED_EVERY} iterations" in lines
  assert result(folder, TOTAL) == result(finished.folder, TOTAL)
  assert support.journal(folder) == support.journal(finished.folder)


def test_damaged_states_are_refused(finished, models, tmp_path, capsys):
  folder = unfinished(finished, tmp_path / "run")
  first, last = sorted((folder / "state").glob("[0-9]*"), key=lambda state: int(state.name))
  torn(first), torn(last)
  assert f"{first} cannot be read" in support.refused(capsys, folder, **models)
