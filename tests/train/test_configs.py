"""The trainings' config files, and what one that goes on from other weights keeps of them."""

import pytest

from imx2mx_jax.train import networks, settings
from tests.train.support import REPOSITORY

MICRO = ["vae.py", "clip.py", "teacher.py", "controlnet.py", "student.py", "student.py:single"]
RELEASED = [f"{model}.py:released" for model in ("teacher", "controlnet", "student")]


def resolved(config, **changes):
  file, _, stage = config.partition(":")
  scope = {}
  exec((REPOSITORY / "configs" / "train" / file).read_text(), scope)
  tree = scope["get_config"](*[stage] if stage else [])
  tree.update_from_flattened_dict(changes)
  return settings.resolve(tree)


@pytest.mark.parametrize("config", MICRO)
def test_a_micro_model_is_trained_on_the_micro_world_from_scratch(config):
  run = resolved(config)
  assert run.data.source == "micro" and not run.start and run.licence == "Apache-2.0"


@pytest.mark.parametrize("config", RELEASED)
def test_a_released_model_goes_on_from_its_weights_with_a_small_rate(config):
  run = resolved(config)
  assert run.start == f"weights/{run.model}" and run.data.source == "data"
  assert run.optim.lr <= 1e-5 and run.remat and not run.readout


def test_a_clip_that_goes_on_learning_keeps_its_words(tmp_path):
  micro = networks._tokenizer(resolved("clip.py"))
  assert micro.parts[-3:] == ("bundled", "teacher", "tokenizer")
  started = networks._tokenizer(resolved("clip.py", start=str(tmp_path)))
  assert started == tmp_path / "tokenizer"
