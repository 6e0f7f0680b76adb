"""CLIP's byte-pair encoding, as transformers reads it. README.md says where it comes from."""

import gzip
import json
import pathlib

MERGES = pathlib.Path(__file__).parent / "merges.txt.gz"
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
CONFIG = {
  "tokenizer_class": "CLIPTokenizer",
  "model_max_length": 77,
  "bos_token": BEGIN,
  "eos_token": END,
  "unk_token": END,
  "pad_token": END,
}


def write(folder: pathlib.Path) -> pathlib.Path:
  """The files of CLIP's tokenizer, padding with the end mark as in Stable Diffusion 1.x."""
  merges = gzip.decompress(MERGES.read_bytes()).decode()
  pairs = merges.splitlines()[1:]
  words = ["".join(pair.split()) for pair in pairs]
  tokens = [*_byte_letters(), *(f"{x}</w>" for x in _byte_letters()), *words, BEGIN, END]
  vocabulary = {token: index for index, token in enumerate(tokens)}
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "merges.txt").write_text(merges, encoding="utf-8")
  (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
  (folder / "tokenizer_config.json").write_text(json.dumps(CONFIG))
  return folder


def _byte_letters() -> list[str]:
  """A visible letter for every byte: the printable ones of Latin-1, then others from 256 on."""
  visible = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
  return [chr(code) for code in (*visible, *range(256, 512 - len(visible)))]
