"""Texts to token ids, by the tokenizer that lies beside a text tower's weights."""

import os
import pathlib
from collections.abc import Sequence

from imx2mx_jax.errors import ConfigError, WeightsError
from imx2mx_jax.shapes import Int, np

_FILES = ("tokenizer.json", "vocab.json")


def load(folder: str | os.PathLike) -> "transformers.CLIPTokenizer":
  """The tokenizer in a folder, in any layout that transformers writes. Raises WeightsError.

  transformers takes a second to import (and never imports PyTorch for this), hence here.
  """
  if not any((pathlib.Path(folder) / name).is_file() for name in _FILES):
    raise WeightsError(
      f"{folder}: there is no tokenizer ({' or '.join(_FILES)}); convert these weights again, "
      "with the tokenizer's files beside the source"
    )
  os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # or it asks for PyTorch
  from transformers import CLIPTokenizer

  return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def encode(
  tokenizer: "transformers.CLIPTokenizer", texts: Sequence[str], *, truncate: bool = False
) -> Int[np.ndarray, "B L"]:
  """Token ids between the marks of beginning and end, padded to the tokenizer's length L.

  The empty text is what guidance calls "no text". truncate: cut texts that are too long, the end
  mark kept; otherwise they raise ConfigError.
  """
  if not truncate:
    for text in texts:
      _refuse_long(tokenizer, text)
  length = tokenizer.model_max_length
  rows = tokenizer(list(texts), padding="max_length", truncation=True, max_length=length)
  return np.array(rows["input_ids"], np.int32)


def encode_instruction(
  tokenizer: "transformers.CLIPTokenizer", text: str
) -> Int[np.ndarray, "1 L"]:
  """The token ids of a user's instruction. Raises ConfigError where it is empty or too long."""
  if not text.strip():
    raise ConfigError("the instruction is empty; say what to change, for example 'make it night'")
  return encode(tokenizer, [text])


def _refuse_long(tokenizer: "transformers.CLIPTokenizer", text: str):
  text = " ".join(text.split())
  tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
  starts = [start for start, _ in tokens["offset_mapping"]]
  limit = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
  if len(starts) <= limit:
    return
  first_lost = text.rfind(" ", 0, starts[limit]) + 1
  raise ConfigError(
    f"the text {_shortened(text)!r} has {len(starts)} tokens and the text encoder reads {limit}; "
    f"shorten it, or these words fall off: {text[first_lost:]!r}"
  )


def _shortened(text: str, length: int = 40) -> str:
  return text if len(text) <= length else f"{text[:length]}..."
