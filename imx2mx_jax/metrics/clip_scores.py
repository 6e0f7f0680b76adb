"""The paper's three scores (arXiv 2511.14899), by CLIP.

They judge pictures and texts, not geometry: views may agree for CLIP and not in 3D.
"""

import itertools

import jax
import jax.numpy as jnp

from imx2mx_jax import tokenizer as tokens
from imx2mx_jax.models.network import Network
from imx2mx_jax.shapes import Array, Float, Int, np


def clip_scores(
  clip: Network,
  tokenizer: "transformers.CLIPTokenizer",
  sources: Float[np.ndarray | Array, "N H W 3"],
  edited: Float[np.ndarray | Array, "N h w 3"],
  source_caption: str,
  edited_caption: str,
) -> dict[str, float]:
  """{"sim", "dir", "cons"}: cosines of CLIP's embeddings phi, each of unit length; N is 2 or more.

  sim: phi(edited view) with phi(edited caption), mean over the views. dir: the way from a source
  view to its edit with the way from caption to caption. cons: the way between two source views
  with the way between their edits, mean over all pairs of views. A way of length 0 has cosine 0.

  sources, edited: in [-1, 1]. Raises ConfigError for a caption that is too long.
  """
  captions = tokens.encode(tokenizer, [source_caption, edited_caption])
  texts = _embed_texts(clip, captions)
  before, after = (np.asarray(_embed_images(clip, images)) for images in (sources, edited))
  return trio(before, after, np.asarray(texts))


def trio(
  before: Float[np.ndarray, "N D"], after: Float[np.ndarray, "N D"], texts: Float[np.ndarray, "2 D"]
) -> dict[str, float]:
  """The scores of embeddings of unit length: source views, edited views, the two captions."""
  first, second = np.array(list(itertools.combinations(range(len(before)), 2))).T
  return {
    "sim": _mean_cosine(after, texts[1:]),
    "dir": _mean_cosine(after - before, texts[1:] - texts[:1]),
    "cons": _mean_cosine(before[first] - before[second], after[first] - after[second]),
  }


def prepared(
  clip: Network, images: Float[np.ndarray | Array, "N H W 3"]
) -> Float[Array, "N size size 3"]:
  """Pictures as CLIP was trained to see them: bicubic with antialiasing, normalised."""
  shape = clip.module.vision.shape
  size = (len(images), shape.image_size, shape.image_size, 3)
  resized = jnp.clip(jax.image.resize(images, size, "cubic"), -1, 1)
  return ((resized + 1) / 2 - jnp.array(shape.mean)) / jnp.array(shape.std)


@jax.jit
def _embed_images(clip: Network, images: Float[Array, "N H W 3"]) -> Float[Array, "N D"]:
  return clip.module.embed_images(prepared(clip, images))


@jax.jit
def _embed_texts(clip: Network, ids: Int[Array, "M L"]) -> Float[Array, "M D"]:
  return clip.module.embed_texts(ids)


def _mean_cosine(a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "#N D"]) -> float:
  lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
  return float(((a * b).sum(axis=-1) / np.maximum(lengths, 1e-12)).mean())
