"""Noising, guidance and score distillation equal the reference's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imx2mx_jax import diffusion, teachers
from tests.golden import method, support

pytestmark = pytest.mark.golden


@support.cases("teacher_step")
def test_teacher_step_equals_the_reference(case):
  teacher = method.teacher(case)

  @jax.jit
  def step(teacher, z0, eps, t, key_view):
    alpha, sigma = teachers.SCHEDULE.alpha_sigma(t)
    z_t = diffusion.add_noise(z0, eps, alpha, sigma)
    inputs = teacher.branches(z_t, t)
    residuals = None
    if getattr(teacher, "controlnet", None) is not None:
      residuals = teacher.controlnet(*inputs, jnp.tile(teacher.control, (2, 1, 1, 1)))
    raw = teacher.unet(*inputs, key_view=key_view, views=len(z0), residuals=residuals)
    eps_hat = teacher.predict_noise(z_t, t, key_view)
    loss, grad = jax.value_and_grad(diffusion.sds_loss)(z0, eps_hat, eps, authors=True)
    pred_z0 = diffusion.predict_z0(z_t, eps_hat, alpha, sigma)
    maps = {"z_t": z_t, "raw": raw, "eps_hat": eps_hat, "pred_z0": pred_z0, "grad_z0": grad}
    return {"unet_input": inputs[0], **maps}, loss

  for row in case["cases"]:
    i, t = row["index"], jnp.int32(row["timestep"])
    key_view = None if row["key_frame"] is None else jnp.int32(row["key_frame"])
    z0, eps = (support.nhwc(case.input(f"{key}.{i}")) for key in ("z0", "eps"))
    maps, loss = step(teacher, z0, eps, t, key_view)
    check(case, f"loss.{i}", row["weight"] * loss)
    for key, value in maps.items():
      weight = row["weight"] if key == "grad_z0" else 1
      if f"{key}.{i}" in case["tensors"]:
        check(case, f"{key}.{i}", support.nchw(weight * value), t=row["timestep"])


def check(case, key: str, ours, t: int = 0):
  quantity = key.partition(".")[0]
  given = case["tolerance"].get(quantity, {"atol": 1e-5, "rtol": 1e-5})
  alpha, sigma = teachers.SCHEDULE.alphas[t], teachers.SCHEDULE.sigmas[t]
  factors = {"": 1, "_times_sigma_over_alpha": sigma / alpha, "_times_numel": 1 / np.size(ours)}
  atol = sum(given.get(f"atol{suffix}", 0) * factor for suffix, factor in factors.items())
  support.assert_close(
    ours, case.tensor(key), atol=atol, rtol=given["rtol"], what=f"{case.name}: {key}"
  )
