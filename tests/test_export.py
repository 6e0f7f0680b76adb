"""Export: what goes back to PyTorch's libraries, and what is refused."""

import dataclasses
import functools
import json
import pathlib
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from convert_weights import export, reader, sources, verify, writer
from convert_weights.names import ConversionError
from convert_weights.tables import clip_vision
from imx2mx_jax import weights
from imx2mx_jax.errors import UserError
from imx2mx_jax.models import network
from imx2mx_jax.models.clip_vision import ClipVisionShape
from tests import released

BUNDLED = pathlib.Path(weights.__file__).parent / "micro" / "bundled"


@pytest.fixture(scope="module", autouse=True)
def _each_network_is_traced_once():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(reader, "abstract", functools.cache(network.abstract))
    yield


def convert(kind, src, dst, **options) -> pathlib.Path:
  writer.write(reader.open_model(kind, str(src)), dst, writer.Options(**options))
  return dst


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> pathlib.Path:
  """A tiny autoencoder as we have it; not to be changed."""
  folder = tmp_path_factory.mktemp("ours")
  return convert("student_vae", released.write("student_vae", folder / "src"), folder / "vae")


def tensors(kind, folder) -> dict[str, np.ndarray]:
  parts = reader.open_model(kind, str(folder)).parts
  return {f"{part.name}: {x}": part.tensors.read(x) for part in parts for x in part.tensors.where}


def assert_same(found: dict, wanted: dict):
  assert found.keys() == wanted.keys()
  for name, array in found.items():
    assert (array.dtype, array.shape) == (wanted[name].dtype, wanted[name].shape), name
    assert array.tobytes() == wanted[name].tobytes(), name


def refusal(kind, src, dst, **kwargs) -> str:
  """The message; nothing is left beside what was there."""
  before = set(dst.parent.iterdir())
  with pytest.raises(UserError) as error:
    export.export(kind, src, dst, **kwargs)
  assert set(dst.parent.iterdir()) == before
  return str(error.value)


# There and back


@pytest.mark.parametrize("kind", weights.KINDS)
def test_a_released_model_comes_back_bit_for_bit(kind, tmp_path):
  src = released.write(kind, tmp_path / "src")
  export.export(kind, convert(kind, src, tmp_path / "ours"), tmp_path / "back")
  assert_same(tensors(kind, tmp_path / "back"), tensors(kind, src))
  there, back = (reader.open_model(kind, str(tmp_path / name)) for name in ("src", "back"))
  assert [part.shape for part in back.parts] == [part.shape for part in there.parts]
  assert {k: v.read_text() for k, v in back.tokenizer.items()} == (
    {k: v.read_text() for k, v in there.tokenizer.items()}
  )


@pytest.mark.parametrize("kind", sorted(path.parent.name for path in BUNDLED.glob("*/model.json")))
def test_a_bundled_model_comes_back_bit_for_bit(kind, tmp_path):
  export.export(kind, BUNDLED / kind, tmp_path / "back", "source")
  assert not reader.open_model(kind, str(tmp_path / "back")).remarks
  assert verify.verify(reader.open_model(kind, str(tmp_path / "back")), BUNDLED / kind)[0] > 0


@pytest.mark.parametrize("format", weights.FORMATS)
def test_each_number_keeps_its_own_precision_at_a_place_that_it_may_have(format, tmp_path):
  src = released.write("metric_clip", tmp_path / "src", dtype=np.float16)
  exact = {"text_model.final_layer_norm.bias": np.linspace(0, 1, 8, dtype=np.float32)}
  released.write_tensors(src / "model.safetensors", load_file(src / "model.safetensors") | exact)
  kept = convert("metric_clip", src, tmp_path / "ours", dtype="source", format=format)
  export.export("metric_clip", kept, tmp_path / "back", "source")
  assert_same(tensors("metric_clip", tmp_path / "back"), tensors("metric_clip", src))
  content = (tmp_path / "back" / "model.safetensors").read_bytes()
  header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
  assert header.pop("__metadata__") == {"format": "pt"}  # transformers asks for it
  width = {"F16": 2, "F32": 4}
  assert all(x["data_offsets"][0] % width[x["dtype"]] == 0 for x in header.values())


def test_numbers_are_rounded_as_asked(ours, tmp_path):
  export.export("student_vae", ours, tmp_path / "whole")
  export.export("student_vae", ours, tmp_path / "half", "float16")
  whole = tensors("student_vae", tmp_path / "whole")
  wanted = {name: array.astype(np.float16) for name, array in whole.items()}
  assert_same(tensors("student_vae", tmp_path / "half"), wanted)


def test_the_folder_of_a_run_is_as_good_as_the_model_in_it(ours, tmp_path):
  shutil.copytree(ours, tmp_path / "run" / "student_vae")
  export.export("student_vae", tmp_path / "run", tmp_path / "back")
  export.export("student_vae", ours, tmp_path / "wanted")
  assert_same(*(tensors("student_vae", tmp_path / name) for name in ("back", "wanted")))


SHAPES = {
  f"{name}, {source.name}": (name, shape)
  for source in sources.SOURCES
  for name, shape in source.shapes.items()
}


@pytest.mark.parametrize("case", SHAPES)
def test_a_config_says_the_released_shape(case):
  name, shape = SHAPES[case]
  table = reader.TABLES[name]
  assert table.shape(json.loads(json.dumps(table.config(shape)))) == shape


def test_every_width_survives_a_ratio_that_is_truncated():
  widths = [ClipVisionShape(width=49, heads=7, mlp_width=width) for width in range(1, 400)]
  assert any(int(49 * (shape.mlp_width / 49)) != shape.mlp_width for shape in widths)
  for shape in widths:
    assert clip_vision.shape(clip_vision.config(shape)) == shape


def test_a_model_without_image_latents_is_a_text_to_image_pipeline(tmp_path):
  info = weights.read_info(BUNDLED / "teacher", "teacher")
  unet = info.networks["unet"]
  plain = dataclasses.replace(unet, shape=dataclasses.replace(unet.shape, in_channels=4))
  both = [info, dataclasses.replace(info, networks=info.networks | {"unet": plain})]
  classes = [export._pipeline(each)["model_index.json"]["_class_name"] for each in both]
  assert classes == ["StableDiffusionInstructPix2PixPipeline", "StableDiffusionPipeline"]


def test_origin_licence_and_notice_travel_along(tmp_path):
  src = released.write("student_vae", tmp_path / "src")
  ours = convert("student_vae", src, tmp_path / "ours", licence="Apache-2.0", notice="Ours.")
  export.export("student_vae", ours, tmp_path / "back")
  notice = (tmp_path / "back" / "NOTICE").read_text()
  assert notice == f"student_vae: {src}\nlicence: Apache-2.0\nOurs.\n"


# All or nothing


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError("broken disk")], ids=repr)
def test_half_a_result_is_never_left(ours, failure, tmp_path, monkeypatch):
  read = weights.read

  def fail(*arguments):
    yield from read(*arguments)
    raise failure

  monkeypatch.setattr(weights, "read", fail)
  with pytest.raises((KeyboardInterrupt, ConversionError)):
    export.export("student_vae", ours, tmp_path / "back")
  assert not list(tmp_path.iterdir())


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
  ours, tmp_path, monkeypatch
):
  monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 100))
  assert "and the disk has 0.00 GB left" in refusal("student_vae", ours, tmp_path / "back")


def test_what_is_there_is_left_alone(ours, tmp_path):
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "thesis.tex").touch()
  (tmp_path / "empty").mkdir()
  for taken in (tmp_path / "full", tmp_path / "full" / "thesis.tex"):
    assert f"{taken} exists and is left alone" in refusal("student_vae", ours, taken)
  export.export("student_vae", ours, tmp_path / "empty")
  assert (tmp_path / "empty" / "config.json").is_file()


# What is refused


def test_other_folders_are_refused(ours, tmp_path):
  (tmp_path / "run").mkdir()
  dst = tmp_path / "back"
  assert "holds a student_vae, not a student;" in refusal("student", ours, dst)
  assert "run has no model.json" in refusal("student_vae", tmp_path / "run", dst)
  assert "nothing does not exist" in refusal("student_vae", tmp_path / "nothing", dst)
  unconverted = released.write("student_vae", tmp_path / "src") / "vae"
  assert "holds weights that are not converted" in refusal("student_vae", unconverted, dst)


def described(ours, folder, **fields) -> pathlib.Path:
  """A copy whose model.json says otherwise."""
  shutil.copytree(ours, folder)
  info = json.loads((folder / "model.json").read_text())
  for stored in info["networks"].values():
    stored["shape"] |= fields
  released.write_json(folder / "model.json", info)
  return folder


def test_arrays_that_are_not_those_described_are_refused(ours, tmp_path):
  other = described(ours, tmp_path / "other", channels=[4, 12])
  message = refusal("student_vae", other, tmp_path / "back")
  assert "vae is not the network that model.json describes" in message


def test_a_damaged_checkpoint_is_refused(ours, tmp_path):
  broken = shutil.copytree(ours, tmp_path / "broken")
  for file in (broken / "vae").rglob("*"):
    if file.is_file():
      file.write_bytes(bytes(file.stat().st_size))
  assert "vae is damaged (" in refusal("student_vae", broken, tmp_path / "back")


def test_what_the_released_layout_cannot_say_is_refused(tmp_path):
  other = described(BUNDLED / "student", tmp_path / "other", groups=16)
  message = refusal("student", other, tmp_path / "back")
  assert "the released layout cannot say groups = 16 of its seva" in message


def test_numbers_too_large_for_the_wanted_precision_are_refused(tmp_path):
  src = released.write("student_vae", tmp_path / "src")
  file = src / "vae" / "diffusion_pytorch_model.safetensors"
  huge = {"encoder.conv_in.bias": np.float32([0, 0, 7e4, 0])}
  released.write_tensors(file, load_file(file) | huge)
  ours = convert("student_vae", src, tmp_path / "ours")
  message = refusal("student_vae", ours, tmp_path / "back", dtype="float16")
  assert "encoder/conv_in/bias has numbers too large for float16" in message
