"""What is exported is what PyTorch's libraries load: every tensor, and the same pictures."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from convert_weights import export, reader, writer
from imx2mx_jax import teachers, tokenizer, weights
from tests import released
from tests.golden.support import nhwc

pytestmark = pytest.mark.torch

BUNDLED = pathlib.Path(weights.__file__).parent / "micro" / "bundled"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers'
def test_diffusers_edits_a_picture_as_we_do(torch, tmp_path):
  from diffusers import StableDiffusionInstructPix2PixPipeline

  export.export("teacher", BUNDLED / "teacher", tmp_path / "teacher")
  pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(tmp_path / "teacher")
  pipeline.set_progress_bar_config(disable=True)
  steps, scales, instruction = 3, (4.0, 1.3), "make it night"
  image = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(0))
  noise = torch.randn(1 + steps, 1, 4, 6, 8, generator=torch.Generator().manual_seed(1))
  generator = torch.Generator().manual_seed(1)
  theirs = pipeline(
    instruction,
    image,
    steps,
    *scales,
    latents=torch.randn(1, 4, 6, 8, generator=generator),
    generator=generator,
    output_type="np",
  ).images

  models = weights.load(BUNDLED / "teacher", "teacher")
  words = tokenizer.load(BUNDLED / "teacher" / weights.TOKENIZER)
  ids = jnp.asarray(tokenizer.encode(words, [instruction, ""]))

  @jax.jit
  def edit(unet, vae, text_encoder, image, noise):
    source = teachers.encode_sources(vae, 2 * image - 1)
    teacher = teachers.instruct_pix2pix(unet, text_encoder, ids, source, *scales)
    latents = teachers.edit_views(teacher, noise[0], noise[1:])[-1]
    return teachers.decode(vae, latents) / 2 + 0.5

  ours = edit(**models, image=nhwc(image.numpy()), noise=np.moveaxis(noise.numpy(), 2, -1))
  assert np.std(theirs) > 0.05
  np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_diffusers_and_transformers_find_every_tensor(torch, tmp_path):
  from diffusers import AutoencoderKL, ControlNetModel
  from transformers import CLIPModel

  controlnet = reader.open_model("controlnet", str(released.write("controlnet", tmp_path / "src")))
  writer.write(controlnet, tmp_path / "controlnet", writer.Options())
  classes = {
    AutoencoderKL: ("student_vae", BUNDLED / "student_vae"),
    ControlNetModel: ("controlnet", tmp_path / "controlnet"),
    CLIPModel: ("metric_clip", BUNDLED / "metric_clip"),
  }
  for cls, (kind, src) in classes.items():
    export.export(kind, src, tmp_path / cls.__name__)
    model, found = cls.from_pretrained(tmp_path / cls.__name__, output_loading_info=True)
    assert not any(found.values()), (kind, found)
    (network,) = weights.load(src, kind).values()
    assert sum(x.numel() for x in model.parameters()) == sum(
      x.size for x in network.params.values()
    )


def test_transformers_compares_pictures_with_texts_as_we_do(torch, tmp_path):
  from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

  export.export("metric_clip", BUNDLED / "metric_clip", tmp_path / "clip")
  model = CLIPModel.from_pretrained(tmp_path / "clip").eval()
  processor = CLIPImageProcessor.from_pretrained(tmp_path / "clip")
  words = CLIPTokenizer.from_pretrained(tmp_path / "clip")
  picture = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
  texts = words(["a red cube", "night"], padding="max_length", return_tensors="pt").input_ids
  pixels = processor(picture, return_tensors="pt").pixel_values
  with torch.no_grad():
    theirs = model(pixel_values=pixels, input_ids=texts).logits_per_image
  clip = weights.load(BUNDLED / "metric_clip", "metric_clip")["clip"].module
  ours = clip(jnp.asarray(nhwc(pixels.numpy())), jnp.asarray(texts.numpy()))
  np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)


def test_open_clips_tower_takes_every_tensor(torch, tmp_path):
  open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")

  export.export("image_encoder", BUNDLED / "image_encoder", tmp_path / "tower")
  fields = json.loads((tmp_path / "tower" / "config.json").read_text())
  names = ("image_size", "patch_size", "width", "layers", "heads", "mlp_ratio")
  tower = open_clip.transformer.VisionTransformer(
    **{name: fields[name] for name in names}, output_dim=fields["embed_dim"]
  )
  tensors = load_file(tmp_path / "tower" / "model.safetensors")
  tower.load_state_dict(
    {name.removeprefix("visual."): torch.tensor(x) for name, x in tensors.items()}
  )
  pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
  ours = weights.load(BUNDLED / "image_encoder", "image_encoder")["vision"]
  with torch.no_grad():
    theirs = tower.eval()(pixels)
  np.testing.assert_allclose(ours(nhwc(pixels.numpy())), theirs.numpy(), atol=1e-4)
