"""The authors' way of handing pictures to the teacher and back in 8 bits (section 15)."""

import numpy as np
import pytest

from imx2mx_jax import pictures
from imx2mx_jax.scene import load_scene
from tests.golden import support

pytestmark = pytest.mark.golden

SIZE, TEACHER_SIZE = 576, 512


def source(case) -> np.ndarray:
  """[576 576 3] the frame of the case, as the authors crop it."""
  frames = sorted({case["frame"], 0, 1})  # a scene has two views at least
  scene = load_scene(support.scenes_folder() / case["scene"], frames, size=SIZE, authors=True)
  return scene.images[frames.index(case["frame"])]


def check(case, key: str, ours: np.ndarray, atol: float | None = None):
  """Compares a picture [H W 3] with what is stored of it; without atol in levels of 8 bits."""
  channels_first = case["fingerprints"][key]["shapes"][0][-1] != 3
  whole = support.nchw(ours)[None] if channels_first else ours
  to_last = support.nhwc if channels_first else np.asarray
  pieces = {"patch": ours[200:264, 200:264], "strided": ours[::16, ::16]}
  for piece, mine in pieces.items():
    theirs = to_last(case.tensor(f"{key}.{piece}")).reshape(mine.shape)
    levels = case.tolerance("uint8")
    support.assert_close(mine, theirs, atol=levels["max_levels"] if atol is None else atol)
    if atol is None:
      assert np.mean(mine != theirs) <= levels["max_share"], f"{key}.{piece}"
  case.check_fingerprints(key, {key: whole}, case.tolerance("fp_rel_l2"))


def levels(image) -> np.ndarray:
  return np.rint((np.asarray(image) + 1) * 127.5).astype(np.uint8)


@support.cases("teacher_images")
def test_the_source_is_cut_to_8_bits_and_resized_like_the_authors(case):
  image = source(case)
  check(case, "source_576_uint8", pictures.truncate_to_8_bits(image))
  small = pictures.teacher_source(image[None], TEACHER_SIZE, authors=True)[0]
  check(case, "source_512_uint8", levels(small))
  check(case, "source_512", small, case.tolerance("source_512_atol"))


@support.cases("teacher_images")
def test_the_editing_pipeline_gets_the_authors_picture(case):
  ours = pictures.edit_source(source(case), TEACHER_SIZE, authors=True)
  check(case, "edit_input_512_uint8", levels(ours))


@support.cases("teacher_images")
def test_the_edited_reference_comes_back_like_the_authors(case):
  edited = pictures.from_8_bits(case.input("edited"))
  ours = pictures.enlarge_reference(edited, SIZE, authors=True)
  check(case, "reference_576", ours, case.tolerance("reference_576_atol"))
