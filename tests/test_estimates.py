"""What an edit takes is told before it begins, and refused where it cannot be had."""

import dataclasses
import json
import pathlib
import shutil
import types

import jax
import pytest

from imx2mx_jax import config, edit, estimates, flops, sharding, weights
from imx2mx_jax.errors import ConfigError, RunFolderError
from imx2mx_jax.scene import load_scene
from tests import bucket
from tests.cli import support


@pytest.fixture
def run(tmp_path):
  """A small edit of two views."""
  tree = config.parse(["main", *support.arguments(tmp_path / "run")])
  return config.resolve(tree)


def test_the_estimate_counts_what_the_run_then_holds(run):
  models = edit.load_models(run)
  scene = load_scene(run.scene.path, run.scene.frames, size=run.student.size)
  state = edit.abstract_state(run, len(scene.names), models)
  size = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
  parameters = size(models.student.params)
  frozen = sum(size(net.params) for net in (models.unet, models.vae, models.student_vae))
  stated = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
  assert stated > 3 * parameters  # AdamW's two moments
  wanted = estimates.needs(run, views=2)
  assert wanted.device == stated + parameters + frozen
  assert wanted.disk == pytest.approx(3 * stated + parameters, abs=51e6)


def test_what_is_frozen_is_held_in_the_arithmetics_dtype(run):
  models = edit.load_models(dataclasses.replace(run, dtype="bfloat16"), load=weights.described)
  of = lambda network, end: {str(x.dtype) for k, x in network.params.items() if k.endswith(end)}
  assert of(models.unet, "conv1/kernel") == {"bfloat16"} and of(models.unet, "bias") == {"float32"}
  assert of(models.student, "") == {"float32"}


@pytest.mark.parametrize("memory", ["small", "smallest"])
def test_a_preset_holds_less(run, memory):
  least = estimates.needs(dataclasses.replace(run, memory=memory), 2).device
  assert least < estimates.needs(run, 2).device


def test_chips_share_what_an_edit_holds(run, monkeypatch):
  alone = estimates.needs(run, 2).device
  mesh = sharding.make_mesh(1, 4, jax.devices() * 4)
  monkeypatch.setattr(edit, "make_mesh", lambda _: mesh)
  assert alone / 4 < estimates.needs(run, 2).device < alone


def test_what_cannot_fit_is_refused_with_what_would(run, monkeypatch):
  small = estimates.needs(dataclasses.replace(run, memory="small"), 2).device
  monkeypatch.setattr(estimates, "memory_of", lambda _: small)
  with pytest.raises(ConfigError, match=r"memory=default: .* --config.memory=small holds"):
    list(estimates.check(run, 2))
  list(estimates.check(dataclasses.replace(run, memory="small"), 2))
  monkeypatch.setattr(estimates, "memory_of", lambda _: 1000)
  with pytest.raises(ConfigError, match="no preset holds so little"):
    list(estimates.check(run, 2))


def test_a_disk_without_room_is_told_before_the_work(run, monkeypatch):
  usage = lambda _: type("Usage", (), {"free": 1000})
  monkeypatch.setattr(estimates.psutil, "disk_usage", usage)
  with pytest.raises(RunFolderError, match=r"run: the run writes up to .* has 1e-06 GB free"):
    list(estimates.check(run, 2))
  assert not pathlib.Path(run.run_dir).exists()
  # What the folder holds already is written over.
  folder = pathlib.Path(run.run_dir)
  folder.mkdir()
  (folder / "state").write_bytes(bytes(estimates.needs(run, 2).disk))
  list(estimates.check(run, 2))


def test_a_folder_in_a_bucket_wants_room_for_its_copy_here(run, monkeypatch, tmp_path):
  bucket.mounted(monkeypatch)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  asked, room = [], types.SimpleNamespace(free=10**12)
  monkeypatch.setattr(estimates.psutil, "disk_usage", lambda path: asked.append(path) or room)
  (tmp_path / "cache").mkdir()
  list(estimates.check(dataclasses.replace(run, run_dir="gs://bucket/run"), 2))
  assert asked == [str(tmp_path / "cache")]


def test_the_operations_are_those_of_what_is_then_traced(run):
  longer = dataclasses.replace(
    run, distill=dataclasses.replace(run.distill, iterations=run.distill.iterations + 1)
  )
  more = edit.total_iterations(longer) - edit.total_iterations(run)
  counted = estimates.operations(longer, 2) - estimates.operations(run, 2)
  scene = load_scene(run.scene.path, run.scene.frames, size=run.student.size)
  events = edit.edit(run, scene, edit.load_models(run), None)
  traced = next(event for event in events if isinstance(event, edit.Traced))
  assert counted / more == pytest.approx(traced.flops, rel=0.03)


def test_a_long_edit_tells_its_time_before_it_begins(run, monkeypatch):
  told = lambda: [line for line in estimates.check(run, 2) if line.startswith("it takes about ")]
  assert told() == []
  monkeypatch.setattr(estimates, "_LARGE", 0)
  (line,) = told()
  assert "PFLOP" in line and "compiling" in line


def test_licences_that_ask_something_are_told_in_a_line_each(run, tmp_path):
  assert list(estimates.licences(run)) == []  # of the bundled models
  folder = tmp_path / "teacher"
  shutil.copytree(run.teacher.weights, folder)
  info = json.loads((folder / "model.json").read_text())
  info |= {"licence": "OpenRAIL-M", "terms": "Mind its list of uses."}
  (folder / "model.json").write_text(json.dumps(info))
  own = dataclasses.replace(run, teacher=dataclasses.replace(run.teacher, weights=str(folder)))
  assert list(estimates.licences(own)) == [
    f"teacher ({folder}): OpenRAIL-M. Mind its list of uses."
  ]


def test_a_teacher_alone_needs_no_room_for_training(run):
  alone = estimates.needs(dataclasses.replace(run, method="teacher_only"), 2)
  assert alone.device < estimates.needs(run, 2).device / 2


def test_time_follows_the_devices(monkeypatch):
  chips = [type("Chip", (), {"device_kind": "TPU v5 lite", "platform": "tpu"})] * 8
  seconds, assumed = estimates.duration(int(2150 * 34.3e12), chips)
  assert seconds == pytest.approx(2150 * 34.3 / (8 * flops.PEAK["TPU v5 lite"] * 0.25))
  assert assumed == "at 25% of the devices' peak"


def test_where_the_peak_is_not_known_a_product_is_timed():
  seconds, assumed = estimates.duration(10**9, jax.devices())
  assert 1e-4 < seconds < 10
  assert "GFLOP/s of a product here" in assumed
