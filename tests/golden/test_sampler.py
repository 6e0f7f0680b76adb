"""SEVA's own sampler, from noise to the last latents, equals the reference's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imx2mx_jax import diffusion, sampler
from tests.golden import method, support

pytestmark = pytest.mark.golden

RULE = {"vanilla": "plain", "multiview": "multiview", "multiview_temporal": "temporal"}


def scales(case) -> np.ndarray:
  c2w, K, clean = (case.input(key) for key in ("c2w", "K", "input_mask"))
  rule = RULE[case["guider"]]
  return sampler.guidance_scales(
    rule, case["guidance"], case["guidance_min"], c2w, K, clean.astype(bool)
  )


def conditioning(case):
  plucker = jnp.asarray(support.nhwc(case.input("plucker")))
  clean = case.input("input_mask").astype(bool)
  embedding = case.input("source_embedding")
  latents = np.zeros((*plucker.shape[:3], 4), np.float32)
  embeddings = np.zeros((len(clean), embedding.shape[-1]), np.float32)
  latents[clean] = support.nhwc(case.input("source_latent"))
  embeddings[clean] = embedding
  return sampler.condition(latents, embeddings, clean, plucker)


@support.cases("sampler")
def test_every_frame_has_the_reference_s_guidance_scale(case):
  atol = case.tolerance("guidance_atol")
  support.assert_close(scales(case), case.tensor("guidance_per_frame"), atol=atol, what="guidance")


@support.cases("sampler")
def test_clean_views_condition_the_sampler_as_the_reference_s(case):
  cond = conditioning(case)
  method.check_layout(case, "c", cond)
  method.check_layout(case, "uc", cond.without_input())


@support.cases("sampler")
def test_the_noise_levels_are_the_reference_s(case):
  taus = np.array(diffusion.sampling_timesteps(case["num_steps"]))
  sigmas = np.append(diffusion.StudentSchedule().sigmas[taus], 0)
  support.assert_close(sigmas, case.tensor("sigmas"), rtol=1e-6, what="sigmas")


@support.cases("sampler")
def test_the_latents_after_each_step_equal_the_reference_s(case):
  student, network = method.student(case)
  count, levels = case["num_steps"], case.tensor("sigmas")
  added = np.stack(
    [
      support.nhwc(case.input(step["noise"])) * diffusion.accidental_noise_scale(level)
      for step, level in zip(case["steps"], levels[:-1], strict=True)
    ]
  )
  noise = support.nhwc(case.input("noise"))
  sample = jax.jit(functools.partial(sampler.sample, student), static_argnames="steps")
  last, states = sample(
    network.params, conditioning(case), scales(case), noise, steps=count, added=added
  )
  atol = case.tolerance("latent_atol")
  for i, state in enumerate(states):
    wanted = case.tensor(f"latent.{i}")
    support.assert_close(support.nchw(state), wanted, atol=atol, what=f"{case.name}: latent.{i}")
  wanted = case.tensor("output")
  support.assert_close(support.nchw(last), wanted, atol=atol, what=f"{case.name}: output")
