"""The paper's scores equal those that transformers' CLIP and its image processor give."""

import itertools

import numpy as np
import pytest

from convert_weights.tables import clip
from imx2mx_jax import pictures, tokenizer
from imx2mx_jax.metrics import clip_scores
from imx2mx_jax.models.clip import Clip
from tests.live.support import assert_equal, converted, randomise
from tests.live.test_clip import EMBED_WIDTH, TEXT, VISION
from tests.metrics.support import BUNDLED, smooth

pytestmark = pytest.mark.torch

CAPTIONS = ["a red cube on grass by day", "a blue sphere and a red cube on grass at night"]


@pytest.fixture(scope="module")
def words():
  return tokenizer.load(BUNDLED / "metric_clip" / "tokenizer")


@pytest.fixture(scope="module")
def reference(torch, words, tmp_path_factory):
  """transformers' model and the same as our network."""
  from transformers import CLIPConfig, CLIPModel

  end = {"vocab_size": 651, "max_position_embeddings": 32, "eos_token_id": words.eos_token_id}
  config = CLIPConfig(text_config=TEXT | end, vision_config=VISION, projection_dim=EMBED_WIDTH)
  model, folder = randomise(CLIPModel(config)), tmp_path_factory.mktemp("clip")
  model.save_pretrained(folder)
  return model, converted(Clip, clip, folder)


def preprocessed(images: np.ndarray):
  """N 3 20 20, by the processor that transformers gives CLIP."""
  from transformers import CLIPImageProcessorPil

  processor = CLIPImageProcessorPil(size={"shortest_edge": 20}, crop_size=20)
  return processor(list(pictures.to_uint8(images)), return_tensors="pt")["pixel_values"]


def theirs(torch, model, words, before, after) -> dict[str, float]:
  """METHOD's definitions, view by view and pair by pair, in PyTorch."""
  cosine = lambda a, b: torch.nn.functional.cosine_similarity(a, b, dim=0).item()
  unit = torch.nn.functional.normalize
  with torch.no_grad():
    ids = words(CAPTIONS, padding="max_length", max_length=32, return_tensors="pt")["input_ids"]
    o, e = unit(model.get_text_features(ids).pooler_output)
    i, j = (unit(model.get_image_features(x).pooler_output) for x in (before, after))
  pairs = itertools.combinations(range(len(i)), 2)
  return {
    "sim": np.mean([cosine(x, e) for x in j]),
    "dir": np.mean([cosine(y - x, e - o) for x, y in zip(i, j, strict=True)]),
    "cons": np.mean([cosine(i[a] - i[b], j[a] - j[b]) for a, b in pairs]),
  }


@pytest.mark.parametrize("side", [15, 64], ids=["enlarged", "reduced"])
def test_the_scores_equal_transformers(torch, reference, words, side):
  model, network = reference
  sources, edited = (pictures.from_8_bits(smooth(seed, (4, side, side))) for seed in (1, 2))
  ours = clip_scores.clip_scores(network, words, sources, edited, *CAPTIONS)
  wanted = theirs(torch, model, words, preprocessed(sources), preprocessed(edited))
  assert ours.keys() == wanted.keys()
  for name in wanted:  # they round the resized pictures to 8 bits
    assert ours[name] == pytest.approx(wanted[name], abs=5e-3), name


def test_the_scores_equal_pytorch_to_the_last_digits_where_nothing_is_rounded(
  torch, reference, words
):
  model, network = reference
  sources, edited = (pictures.from_8_bits(smooth(seed, (3, 50, 50))) for seed in (3, 4))
  before, after = (
    torch.tensor(np.asarray(clip_scores.prepared(network, x))).permute(0, 3, 1, 2)
    for x in (sources, edited)
  )
  ours = clip_scores.clip_scores(network, words, sources, edited, *CAPTIONS)
  wanted = theirs(torch, model, words, before, after)
  assert ours == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("side", [15, 64], ids=["enlarged", "reduced"])
def test_the_resize_is_pytorchs(torch, reference, side):
  images = pictures.from_8_bits(smooth(5, (2, side, side)))
  resized = torch.nn.functional.interpolate(
    torch.tensor(images).permute(0, 3, 1, 2), 20, mode="bicubic", antialias=True
  ).permute(0, 2, 3, 1)
  shape = reference[1].module.vision.shape
  mean, std = (torch.tensor(x) for x in (shape.mean, shape.std))
  wanted = ((resized.clip(-1, 1) + 1) / 2 - mean) / std
  assert_equal(clip_scores.prepared(reference[1], images), wanted)
