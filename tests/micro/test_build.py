"""The build: its stages in their order, what it gathers, and what it says of a stage that fails."""

import subprocess
import sys

import pytest

from imx2mx_jax.micro import build
from imx2mx_jax.train import settings
from tests.train.support import REPOSITORY


def test_every_stage_waits_for_those_whose_weights_it_reads():
  for name, stage in build.STAGES.items():
    before, waiting = set(), list(stage.after)
    while waiting:
      before.add(waiting[-1])
      waiting += build.STAGES[waiting.pop()].after
    read = {str(value).split("/")[1] for value in stage.fields.values()}
    assert read <= before, name


@pytest.mark.parametrize("name", build.STAGES)
def test_every_stage_has_a_config(name):
  stage = build.STAGES[name]
  file, _, argument = stage.config.partition(":")
  scope = {}
  exec((REPOSITORY / "configs" / "train" / file).read_text(), scope)
  config = scope["get_config"](*[argument] if argument else [])
  for field in stage.fields:
    assert field in config or config[field.split(".")[0]][field.split(".")[1]] is not None
  assert config.model in settings.MODELS


def test_what_is_bundled_is_made_by_a_stage():
  made = {"vae": ["student_vae"], "clip": ["image_encoder", "metric_clip"]}
  for kind, name in build.BUNDLED.items():
    model = build.STAGES[name].config.split(".")[0]
    assert kind in made.get(model, [model])


def test_a_stage_that_fails_is_named_with_its_log(tmp_path):
  (tmp_path / "vae").mkdir()
  (tmp_path / "vae" / "something").write_text("else")
  (tmp_path / "clip").mkdir()
  (tmp_path / "clip" / "something").write_text("else")
  command = [sys.executable, "-m", "imx2mx_jax.micro.build", str(tmp_path), "--jobs=2", "--short"]
  done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
  assert done.returncode == 1
  assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
  assert "ended with code 1" in done.stderr and ".log" in done.stderr
  assert "holds other things than a training" in (tmp_path / "vae.log").read_text()
