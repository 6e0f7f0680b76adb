"""CLIP's towers equal transformers' and open_clip's; preprocessing equals kornia's."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from convert_weights.tables import clip, clip_text, clip_vision
from imx2mx_jax.models.clip import Clip
from imx2mx_jax.models.clip_text import ClipText
from imx2mx_jax.models.clip_vision import ClipVision, ClipVisionShape, preprocess
from tests.golden.support import nchw, nhwc
from tests.live.support import assert_equal, converted, randomise

pytestmark = pytest.mark.torch

# No two dimensions are equal, so that nothing can be taken for something else.
TEXT = {
  "vocab_size": 57,
  "max_position_embeddings": 11,
  "hidden_size": 24,
  "num_hidden_layers": 2,
  "num_attention_heads": 3,
  "intermediate_size": 40,
  "layer_norm_eps": 1e-3,
}
VISION = {
  "image_size": 20,
  "patch_size": 4,
  "hidden_size": 30,
  "num_hidden_layers": 3,
  "num_attention_heads": 5,
  "intermediate_size": 44,
  "layer_norm_eps": 1e-2,
}
EMBED_WIDTH = 18
OPEN_CLIP = {
  "embed_dim": EMBED_WIDTH,
  "vision_cfg": {
    "image_size": 20,
    "patch_size": 4,
    "layers": 3,
    "width": 30,
    "head_width": 6,
    "mlp_ratio": 1.5,
  },
  "text_cfg": {"context_length": 11, "vocab_size": 57, "width": 24, "heads": 4, "layers": 2},
}
ACTIVATIONS = ("gelu", "quick_gelu")


def draw(*shape: int) -> np.ndarray:
  return np.random.default_rng(1).standard_normal(shape, np.float32)


def ours(x: np.ndarray) -> jax.Array:
  """N C H W of NumPy -> N H W C of JAX."""
  return jnp.asarray(nhwc(x))


def texts(end: int) -> np.ndarray:
  """Three texts of 3, 6 and 9 tokens, closed and padded with the end mark; ids below 50."""
  ids = np.random.default_rng(2).integers(3, 50, (3, 11))
  ids[np.arange(11) >= np.array([[3], [6], [9]])] = end
  return ids


def save_tensors(model, path, prefix: str = ""):
  """The tensors under their names in memory, all with the prefix."""
  tensors = {name.removeprefix(prefix): x.numpy() for name, x in model.state_dict().items()}
  save_file({f"{prefix}{name}": x for name, x in tensors.items()}, path)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("prefix", ["text_model.", ""], ids=["as released", "as saved today"])
def test_the_text_tower_equals_transformers(torch, tmp_path, activation, prefix):
  from transformers import CLIPTextConfig, CLIPTextModel

  model = randomise(CLIPTextModel(CLIPTextConfig(**TEXT, hidden_act=activation)))
  model.config.save_pretrained(tmp_path)
  save_tensors(model, tmp_path / "model.safetensors", prefix)
  ids = texts(end=56)
  states = converted(ClipText, clip_text, tmp_path)(jnp.asarray(ids))
  assert_equal(states, model(torch.tensor(ids)).last_hidden_state)


@pytest.fixture(params=[56, 2], ids=["end mark", "legacy end mark"])
def transformers_clip(torch, tmp_path, request):
  from transformers import CLIPConfig, CLIPModel

  text = TEXT | {"hidden_act": "gelu", "eos_token_id": request.param}
  vision = VISION | {"hidden_act": "quick_gelu"}
  config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=EMBED_WIDTH)
  model = randomise(CLIPModel(config))
  model.save_pretrained(tmp_path)
  return model, tmp_path


def test_the_metrics_clip_equals_transformers(torch, transformers_clip):
  model, folder = transformers_clip
  pixels, ids = draw(2, 3, 20, 20), texts(end=56)
  theirs = model(pixel_values=torch.tensor(pixels), input_ids=torch.tensor(ids))
  network, ids = converted(Clip, clip, folder).module, jnp.asarray(ids)
  assert_equal(network.embed_images(ours(pixels)), theirs.image_embeds, "images")
  assert_equal(network.embed_texts(ids), theirs.text_embeds, "texts")
  assert_equal(network(ours(pixels), ids), theirs.logits_per_image, "similarities")


def test_the_vision_tower_comes_out_of_a_whole_transformers_clip(torch, transformers_clip):
  model, folder = transformers_clip
  pixels = draw(2, 3, 20, 20)
  theirs = model.get_image_features(pixel_values=torch.tensor(pixels)).pooler_output
  assert_equal(converted(ClipVision, clip_vision, folder)(ours(pixels)), theirs)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_vision_tower_equals_transformers(torch, tmp_path, activation):
  from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

  config = CLIPVisionConfig(**VISION, hidden_act=activation, projection_dim=EMBED_WIDTH)
  model = randomise(CLIPVisionModelWithProjection(config))
  model.save_pretrained(tmp_path)
  pixels = draw(2, 3, 20, 20)
  embedding = converted(ClipVision, clip_vision, tmp_path)(ours(pixels))
  assert_equal(embedding, model(torch.tensor(pixels)).image_embeds)


@pytest.fixture(params=[False, True], ids=ACTIVATIONS)
def open_clip_model(torch, tmp_path, request):
  open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
  from open_clip.push_to_hf_hub import save_config_for_hf

  config = OPEN_CLIP | {"quick_gelu": request.param}
  model = randomise(open_clip.CLIP(**config))
  model.visual.image_mean, model.visual.image_std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
  save_config_for_hf(model, tmp_path / "open_clip_config.json", config)
  return model, tmp_path


@pytest.mark.parametrize("part", ["whole model", "tower alone"])
def test_the_vision_tower_equals_open_clip(torch, open_clip_model, part):
  model, folder = open_clip_model
  saved = model if part == "whole model" else model.visual
  save_tensors(saved, folder / "open_clip_model.safetensors")
  pixels = draw(2, 3, 20, 20)
  embedding = converted(ClipVision, clip_vision, folder)(ours(pixels))
  assert_equal(embedding, model.encode_image(torch.tensor(pixels)))


def test_open_clips_config_gives_mean_and_deviation(open_clip_model):
  _, folder = open_clip_model
  shape = clip_vision.shape(json.loads((folder / "open_clip_config.json").read_text()))
  assert (shape.mean, shape.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize("sides", [(16, 13), (20, 20), (16, 50), (41, 67), (150, 90)])
def test_preprocessing_equals_kornia(torch, sides):
  kornia = pytest.importorskip("kornia", reason="kornia is not installed")
  shape = ClipVisionShape()
  images = draw(2, 3, *sides).clip(-1, 1)
  resized = kornia.geometry.resize(
    torch.tensor(images), (20, 20), interpolation="bicubic", align_corners=True, antialias=True
  )
  theirs = kornia.enhance.normalize(
    (resized + 1) / 2, torch.tensor(shape.mean), torch.tensor(shape.std)
  )
  prepared = preprocess(ours(images), 20, shape.mean, shape.std)
  assert_equal(nchw(prepared), theirs)
