"""Published models of InstructPix2Pix's architecture are taken, at their own size.

Their folders are made here: PyTorch's libraries say which tensors the models have, and the files
have these names, shapes and dtypes, with holes where the numbers would be.
"""

import json
import math
import shutil

import pytest

from convert_weights import reader
from imx2mx_jax.models.clip_text import ClipTextShape
from imx2mx_jax.models.unet import UNetShape
from imx2mx_jax.models.vae import VaeShape
from tests.train.support import TOKENIZER

pytestmark = pytest.mark.torch

BYTES = {"F32": 4, "F16": 2}
# Ported from the original program's checkpoint; trained by diffusers' own script. Of each: what its
# UNet's config says besides Stable Diffusion 1.5's, its dtype, its files' variant.
MODELS = {
  "vinesmsuic/magicbrush-jul7": ({"attention_head_dim": 8}, "F32", ""),
  "instruction-tuning-sd/cartoonizer": ({"upcast_attention": None}, "F16", ".fp16"),
}


def write(file, model, dtype):
  """A safetensors file of a model's tensors, which takes no room on the disk."""
  header, at = {}, 0
  for name, tensor in model.state_dict().items():
    size = math.prod(tensor.shape) * BYTES[dtype]
    offsets = [at, at := at + size]
    header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": offsets}
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)
  with file.open("wb") as stream:
    stream.write(len(text).to_bytes(8, "little") + text)
    stream.truncate(8 + len(text) + at)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers'
@pytest.mark.parametrize("name", MODELS)
def test_a_model_like_instruct_pix2pix_is_one(torch, tmp_path, name):
  from diffusers import AutoencoderKL, UNet2DConditionModel
  from transformers import CLIPTextConfig, CLIPTextModel

  special, dtype, variant = MODELS[name]
  widths = (128, 256, 512, 512)
  with torch.device("meta"):
    unet = UNet2DConditionModel(in_channels=8, cross_attention_dim=768, **special)
    vae = AutoencoderKL(
      down_block_types=["DownEncoderBlock2D"] * 4,
      up_block_types=["UpDecoderBlock2D"] * 4,
      block_out_channels=widths,
      layers_per_block=2,
      latent_channels=4,
    )
    config = CLIPTextConfig(
      hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    text = CLIPTextModel(config)
  files = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
  networks = {"unet": unet, "vae": vae, "text_encoder": text}
  for part, network in networks.items():
    folder = tmp_path / part
    folder.mkdir()
    file = folder / f"{files.get(part, 'model')}{variant}.safetensors"
    write(file, network, dtype)
    settings = config.to_dict() if part == "text_encoder" else dict(network.config)
    (folder / "config.json").write_text(json.dumps(settings))
  shutil.copytree(TOKENIZER, tmp_path / "tokenizer")

  found = {part.name: part for part in reader.open_model("teacher", str(tmp_path)).parts}
  assert found["unet"].shape == UNetShape()
  assert found["vae"].shape == VaeShape()
  assert found["text_encoder"].shape == ClipTextShape()
  counts = {
    part: sum(x.numel() for x in network.parameters()) for part, network in networks.items()
  }
  assert counts["unet"] == 859_532_484
  for part, count in counts.items():
    assert sum(math.prod(shape) for shape in found[part].tensors.shapes.values()) >= count
