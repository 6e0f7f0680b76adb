"""The method's objects rebuilt from a golden case."""

import jax.numpy as jnp

from convert_weights.tables import controlnet as controlnet_table
from convert_weights.tables import seva as seva_table
from convert_weights.tables import unet as unet_table
from imx2mx_jax import students, teachers
from imx2mx_jax.models import controlnet, seva, unet
from imx2mx_jax.models.network import Network
from tests.golden import support


def teacher(case: support.Case):
  """The teacher of a case: ip2p, controlnet or plain; named `unet.*` and `controlnet.*`."""
  network = case.network(
    unet.UNet, unet_table.shape(case["unet_config"]), unet_table.DIALECTS, prefix="unet."
  )
  text, null = (jnp.asarray(case.input(f"{key}_embedding")) for key in ("text", "null"))
  text, null = (x.reshape(x.shape[-2:]) for x in (text, null))
  text_scale = jnp.float32(case["text_guidance"])
  if case.json.get("teacher", "ip2p") == "ip2p":
    key = "source_latents" if "source_latents" in case["inputs"] else "source_latent"
    source = jnp.asarray(support.nhwc(case.input(key)))
    image_scale = jnp.float32(case["image_guidance"])
    return teachers.InstructPix2Pix(network, text, null, source, text_scale, image_scale)
  prediction = case.json.get("prediction_type", "epsilon")
  if case["teacher"] == "plain":
    return teachers.StableDiffusion(network, text, null, text_scale, prediction=prediction)
  control = case.network(
    controlnet.ControlNet,
    controlnet_table.shape(case["controlnet_config"]),
    controlnet_table.DIALECTS,
    prefix="controlnet.",
  )
  image = jnp.asarray(support.nhwc(case.input("control_image")))
  return teachers.StableDiffusion(network, text, null, text_scale, control, image, prediction)


def student(case: support.Case) -> tuple[students.Seva, Network]:
  """The student of a case and its network filled by the recipe."""
  network = case.network(seva.Seva, seva_table.shape(case["config"]), seva_table.DIALECTS)
  return students.Seva(network.graphdef), network


def conditioning(case: support.Case) -> students.SevaConditioning:
  """The student's conditioning on the edited reference, which is frame 0."""
  return students.seva_conditioning(
    jnp.asarray(support.nhwc(case.input("edit_latent"))[0]),
    jnp.asarray(case.input("edit_embedding")[0]),
    jnp.asarray(support.nhwc(case.input("plucker"))),
  )


def check_layout(case: support.Case, prefix: str, cond: students.SevaConditioning):
  """The conditioning equals the reference's entries, element by element."""
  frames, height, width, _ = cond.plucker.shape
  mask = jnp.broadcast_to(cond.mask[:, None, None, None], (frames, height, width, 1))
  context = jnp.broadcast_to(cond.context, (frames, *cond.context.shape))
  ours = {
    "replace": support.nchw(jnp.concatenate([cond.clean, mask], axis=-1)),
    "concat": support.nchw(jnp.concatenate([mask, cond.plucker], axis=-1)),
    "dense_vector": support.nchw(cond.plucker),
    "crossattn": context,
  }
  if prefix == "uc":  # nothing is replaced, but the map of the cameras stays
    assert not ours["replace"].any()
  for key, value in ours.items():
    support.assert_close(value, case.tensor(f"{prefix}.{key}"), what=f"{case.name}: {prefix}.{key}")
