"""Depth pictures by a depth network of transformers, tiny and with random weights."""

import numpy as np
import pytest
from PIL import Image

from imx2mx_jax import depth
from tests.cli import support

SCENE = support.MICRO / "scenes" / "scene_05"
SIZE = 56

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def model(torch, tmp_path_factory):
  from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTImageProcessor,
  )

  torch.manual_seed(0)
  backbone = Dinov2Config(
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=2,
    intermediate_size=64,
    image_size=SIZE,
    patch_size=14,
    out_features=["stage1", "stage2", "stage3", "stage4"],
    reshape_hidden_states=False,
  )
  network = DepthAnythingForDepthEstimation(
    DepthAnythingConfig(
      backbone_config=backbone,
      reassemble_hidden_size=32,
      neck_hidden_sizes=[8, 16, 32, 32],
      fusion_hidden_size=16,
      head_hidden_size=8,
      patch_size=14,
    )
  )
  folder = tmp_path_factory.mktemp("depth-model")
  network.save_pretrained(folder)
  DPTImageProcessor(
    size={"height": SIZE, "width": SIZE}, ensure_multiple_of=14, keep_aspect_ratio=True
  ).save_pretrained(folder)
  return folder


def arguments(out, *more):
  return [str(SCENE), f"--out={out}", "--frames=2,0", *more]


def test_each_view_gets_a_picture_from_black_to_white(model, tmp_path, capsys):
  out = tmp_path / "depth"
  assert depth.main(arguments(out, f"--model={model}", "--size=64x48")) == 0
  assert capsys.readouterr().out.splitlines()[-1] == str(out)
  assert {file.name for file in out.iterdir()} == {"002.png", "000.png", "NOTICE"}
  picture = np.asarray(Image.open(out / "002.png"))
  assert picture.shape == (48, 64, 3)
  assert np.ptp(picture) > 240 and (picture == picture[..., :1]).all()


def test_near_is_bright():
  ramp = np.linspace(3, 7, 12, dtype=np.float32).reshape(3, 4)
  found = depth.depth_picture(lambda _: ramp, np.zeros((3, 4, 3), np.uint8))
  assert (found[0, 0] == 0).all() and (found[-1, -1] == 255).all()
  assert (np.diff(found[..., 0].ravel().astype(int)) > 0).all()


def test_a_picture_without_depth_is_black():
  flat = np.full((3, 4), 5, np.float32)
  assert not depth.depth_picture(lambda _: flat, np.zeros((3, 4, 3), np.uint8)).any()


def test_what_is_no_model_is_refused_in_a_sentence(tmp_path, capsys):
  out = tmp_path / "depth"
  assert depth.main(arguments(out, f"--model={tmp_path}")) == 1
  error = capsys.readouterr().err
  assert error.startswith("error: ") and error.count("\n") == 1 and str(tmp_path) in error
  assert not out.exists()
