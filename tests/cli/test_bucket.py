"""A list of edits whose every path is in a bucket, on machines that do not stay."""

import functools
import json
import os
import pathlib
import signal
import time

import pytest
from etils import epath

from imx2mx_jax import batch, remote, run_folder
from imx2mx_jax.evaluate.__main__ import main as evaluate
from imx2mx_jax.render.__main__ import main as render
from imx2mx_jax.report.__main__ import main as report
from tests import bucket as buckets
from tests import tiny
from tests.cli import support
from tests.cli.test_resume import result

SCENE, TOTAL = support.SMALL["scene.path"], 8


@pytest.fixture
def machine(tmp_path, monkeypatch):
  """Gives another machine, which has no copies yet."""
  numbers = iter(range(9))

  def another():
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"machine{next(numbers)}"))
    remote._fetched.cache_clear()

  another()
  return another


@pytest.fixture
def bucket(monkeypatch):
  return buckets.mounted(monkeypatch)


@pytest.fixture
def models(tmp_path):
  return tiny.models(tmp_path / "models")


def uploaded(bucket, models):
  """The same models and the scene in the bucket."""
  url = functools.partial(buckets.upload, bucket)
  theirs = {
    name: url(pathlib.Path(folder), f"gs://bucket/weights/{name}")
    for name, folder in models.items()
  }
  return theirs, url(SCENE, "gs://bucket/scene_05")


def edited(models, scene, folder, **changes):
  """The exit code of a list of one edit, which lies in the folder as all else does."""
  settings = tiny.SETTINGS | models | {"distill.reference": "source"} | changes
  fields = [f"--config.{name}={value}" for name, value in settings.items()]
  line = {"scene": str(scene), "instruction": "make it day"}
  jobs = epath.Path(folder) / "jobs.jsonl"
  jobs.write_text(json.dumps(line))
  return batch.main(["batch", support.CONFIG, *fields, f"--jobs={jobs}", f"--out={folder}/out"])


def edit_in(folder):
  """The run's folder, or a copy of it."""
  (found,) = [path for path in (epath.Path(folder) / "out").iterdir() if "day" in path.name]
  if not remote.is_remote(found):
    return found
  copy = remote.Copy(found)
  copy.fetch()
  return copy.path


def pictures(folder):
  files = [*(folder / "edited").iterdir(), folder / "grid.png"]
  return {file.name: file.read_bytes() for file in files}


def test_an_edit_in_a_bucket_is_the_edit_on_a_disk(bucket, models, tmp_path, machine, capsys):
  there = *uploaded(bucket, models), "gs://bucket"
  assert edited(*there, method="teacher_only") == 0
  assert capsys.readouterr().out.splitlines()[-1] == "gs://bucket/out"
  summary = json.loads(bucket.cat_file("gs://bucket/out/summary.json"))
  assert summary["counts"]["finished"] == 1
  assert not [*remote._copies().glob("*/*day*")]  # of a whole night they would fill the disk
  machine()
  assert edited(*there, method="teacher_only") == 0
  assert "editing" not in capsys.readouterr().out
  assert (edit_in("gs://bucket") / "report.html").exists()
  assert not [path for path in bucket.find("gs://bucket") if ".claim" in path]
  assert edited(models, SCENE, tmp_path, method="teacher_only") == 0
  assert pictures(edit_in("gs://bucket")) == pictures(edit_in(tmp_path))


@pytest.mark.slow
def test_an_edit_that_was_stopped_goes_on_on_another_machine(
  bucket, models, tmp_path, machine, monkeypatch, capsys
):
  there = *uploaded(bucket, models), "gs://bucket"
  log, arrived = run_folder.RunFolder.log, []

  def log_and_be_told_to_stop(self, step, *rest):
    while step == 6 and not (self.path / "state" / "4").exists():
      time.sleep(0.1)
    log(self, step, *rest)
    if step == 6:
      self._pushing.result()
      arrived.append(bucket.glob("gs://bucket/out/*day*/state/4/_CHECKPOINT_METADATA"))
    if step == 4:
      os.kill(os.getpid(), signal.SIGTERM)

  with monkeypatch.context() as context:
    context.setattr(run_folder.RunFolder, "log", log_and_be_told_to_stop)
    assert edited(*there) == 128 + signal.SIGTERM
  assert arrived[0]  # before the state after it was saved
  kept = edit_in("gs://bucket")
  assert (kept / "state" / "6").exists() and not (kept / "finished.json").exists()

  machine()
  capsys.readouterr()
  assert edited(*there) == 0
  assert "going on after 6 iterations" in capsys.readouterr().out.splitlines()
  assert edited(models, SCENE, tmp_path) == 0
  assert result(edit_in("gs://bucket"), TOTAL) == result(edit_in(tmp_path), TOTAL)


def test_a_run_in_a_bucket_is_measured_reported_and_rendered(bucket, models, machine, capsys):
  theirs, scene = uploaded(bucket, models)
  assert edited(theirs, scene, "gs://bucket", method="teacher_only") == 0
  (file,) = bucket.glob("gs://bucket/out/*day*/finished.json")
  run = f"gs://{file.strip('/').removesuffix('/finished.json')}"
  before = bucket.cat_file(f"{run}/report.html")
  assert evaluate(["evaluate", run]) == 0
  assert "warp" in json.loads(bucket.cat_file(f"{run}/metrics.json"))
  bucket.rm_file(f"{run}/report.html")
  assert report(["report", run]) == 0
  assert bucket.cat_file(f"{run}/report.html") == before
  small = ["--size=32", "--views=3,6", "--frames=3", "--steps=2", "--at_once=6"]
  capsys.readouterr()
  bundled = f"--models={support.MICRO / 'bundled'}"
  command = ["render", scene, bundled, *small, "--path=arc", "--out=gs://bucket/arc"]
  assert render(command) == 0
  assert capsys.readouterr().out.splitlines()[-1] == "gs://bucket/arc"
  assert len(bucket.glob("gs://bucket/arc/frames/*.png")) == 3
  assert bucket.cat_file("gs://bucket/arc/video.mp4")
  options = ["--path=arc", "--frames=3", "--steps=1"]
  assert render(["render", run, *options, f"--out={run}/render/arc"]) == 0
  assert bucket.cat_file(f"{run}/render/arc/video.mp4")
  machine()
  assert render(command) == 0  # all of it is there
