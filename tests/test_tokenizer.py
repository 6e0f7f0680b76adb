"""What a text must be, and what it becomes."""

import subprocess
import sys

import numpy as np
import pytest

from imx2mx_jax import tokenizer
from imx2mx_jax.errors import ConfigError, WeightsError
from tests.golden import tokenizer as clip_vocabulary


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
  return tokenizer.load(clip_vocabulary.write(tmp_path_factory.mktemp("tokenizer")))


def test_a_text_stands_between_its_marks_and_is_padded_to_the_towers_length(clip):
  ids = tokenizer.encode(clip, ["a cat"])
  assert ids.shape == (1, 77)
  np.testing.assert_array_equal(ids[0, :5], [49406, 320, 2368, 49407, 49407])


def test_the_empty_text_has_only_its_marks(clip):
  np.testing.assert_array_equal(tokenizer.encode(clip, [""])[0], [49406] + [49407] * 76)


@pytest.mark.parametrize("text", ["", " \t\n"])
def test_an_empty_instruction_is_refused(clip, text):
  with pytest.raises(ConfigError, match="the instruction is empty; say what to change"):
    tokenizer.encode_instruction(clip, text)


def test_75_tokens_fit(clip):
  ids = tokenizer.encode_instruction(clip, "cat " * 75)
  assert (ids[0] == 49407).sum() == 1


def test_a_longer_text_is_refused_and_told_which_words_fall_off(clip):
  with pytest.raises(ConfigError) as refusal:
    tokenizer.encode_instruction(clip, "cat " * 74 + "hyper-realistic\tfur, 4k")
  message = str(refusal.value)
  assert "has 81 tokens and the text encoder reads 75" in message
  assert message.endswith("these words fall off: 'hyper-realistic fur, 4k'")
  assert len(message) < 200


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
  with pytest.raises(WeightsError, match=f"{tmp_path}: there is no tokenizer"):
    tokenizer.load(tmp_path)


def test_loading_imports_no_torch_and_says_nothing(tmp_path):
  folder = clip_vocabulary.write(tmp_path)
  program = (
    "import sys; from imx2mx_jax import tokenizer; assert 'transformers' not in sys.modules; "
    f"tokenizer.encode(tokenizer.load({str(folder)!r}), ['a cat']); "
    "assert 'transformers' in sys.modules and 'torch' not in sys.modules"
  )
  run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
  assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
