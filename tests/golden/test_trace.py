"""The whole loop follows the authors' own through every recorded iteration."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert_weights.tables import seva as seva_table
from imx2mx_jax import diffusion, distill, optim, teachers
from tests.golden import method as rebuild
from tests.golden import support

pytestmark = pytest.mark.golden

step = jax.jit(distill.distill_step, static_argnames="method")


def build(case) -> distill.Method:
  settings = case["training"]
  student, _ = rebuild.student(case)
  rate = optim.LearningRate.authors(
    settings["distill_dt"],
    settings["n_distill_per_timestep"],
    peak=settings["lr"],
    final=settings["final_lr"],
    warmup=settings["n_warmup_steps"],
    start=settings["min_lr"],
  )
  b1, b2 = settings["betas"]
  optimizer = optim.optimizer(
    rate,
    clip_norm=settings["grad_clip_norm"],
    b1=b1,
    b2=b2,
    eps=settings["eps"],
    weight_decay=settings["weight_decay"],
    authors=True,
  )
  grid = tuple(case["teacher_latent_hw"])
  return distill.Method(student, rate, optimizer, grid, authors=True)


@jax.jit
def teachers_view(teacher, z0, t, key_view, eps):
  """The teacher's guided noise and clean estimate for a prediction of the student's."""
  alpha, sigma = teachers.SCHEDULE.alpha_sigma(t)
  z_t = diffusion.add_noise(z0, eps, alpha, sigma)
  eps_hat = teacher.predict_noise(z_t, t, key_view)
  return eps_hat, diffusion.predict_z0(z_t, eps_hat, alpha, sigma)


@support.cases("trace", quick=1)
def test_the_loop_follows_the_authors_program(case):
  method, teacher, cond = build(case), rebuild.teacher(case), rebuild.conditioning(case)
  rebuild.check_layout(case, "c", cond)
  initial = rebuild.student(case)[1].params
  noise = jnp.asarray(support.nhwc(case.input("init_noise")))
  state = distill.init(method, initial, {}, noise, case["timesteps"][0])
  check_latents(case, "init_latent", state.latents)

  settings = case["training"]
  taus = diffusion.student_timesteps(settings["t_max"], settings["t_min"], settings["distill_dt"])
  assert list(taus) == case["timesteps"]
  euler_after = {row["after_iteration"]: row for row in case["euler_steps"]}
  largest_loss = max(abs(row["loss"]) for row in case["iterations"])
  loss_atol = case.tolerance("loss_atol_times_largest_absolute_loss") * largest_loss
  seen: dict[str, dict[str, np.ndarray]] = {
    "student_pred": {},
    "eps_hat": {},
    "teacher_pred_z0": {},
  }
  changes = {}

  for row in case["iterations"]:
    i, where = row["iteration"], f"{case.name}: iteration {row['iteration']}"
    eps = jnp.asarray(support.nhwc(case.input(row["eps"])))
    draws = distill.Draws(jnp.int32(row["teacher_t"]), jnp.int32(row["key_frame"]), eps)
    assert int(state.tau) == row["t"], where
    state, metrics = step(method, state, teacher, cond, draws)

    assert float(metrics.loss) == pytest.approx(row["loss"], abs=loss_atol), where
    assert float(metrics.grad_norm) == pytest.approx(
      row["grad_norm"], rel=case.tolerance("grad_norm_rtol")
    ), where
    with jax.enable_x64(True):  # the rate that the optimizer used, without float32's rounding
      lr = float(method.rate(jnp.float64(i)))
    assert lr == pytest.approx(row["lr"], rel=case.tolerance("lr_rtol")), where

    z0 = distill.align(method, {}, state.prediction)
    eps_hat, pred_z0 = teachers_view(teacher, z0, draws.t, draws.key_view, eps)
    for group, value in (("student_pred", z0), ("eps_hat", eps_hat), ("teacher_pred_z0", pred_z0)):
      seen[group][f"{group}:{i}"] = support.nchw(value)
    changes |= {f"{name}:{i}": x for name, x in change(state, initial).items()}
    if i in euler_after:
      state = euler(case, method, state, cond, euler_after[i])

  check_predictions(case, seen)
  check_parameters(case, state, initial, changes)


def euler(case, method, state, cond, row) -> distill.DistillState:
  scale = diffusion.accidental_noise_scale(method.student.schedule.sigmas[row["t"]])
  noise = jnp.asarray(support.nhwc(case.input(row["noise"])) * scale)
  state = distill.student_step(method, state, cond, jnp.int32(row["t_next"]), noise)
  check_latents(case, f"latent.{row['index']}", state.latents)
  return state


def change(state, initial) -> dict[str, np.ndarray]:
  difference = jax.tree.map(lambda a, b: np.asarray(a) - b, state.params["student"], initial)
  return {f"delta:{name}": x for name, x in released(difference).items()}


released = functools.partial(support.released, table=seva_table.DIALECTS[0])


def check_latents(case, key: str, latents):
  error = support.rel_l2(support.nchw(latents), case.tensor(key))
  assert error <= case.tolerance("latent_rel_l2"), f"{case.name}: {key}: {error:.1e}"


def check_predictions(case, seen):
  last = len(case["iterations"]) - 1
  for group, ours in seen.items():
    tau = case.tolerance(f"{group}_rel_l2")
    case.check_fingerprints(group, ours, tau)
    for key, i in (("first", 0), ("last", last)):
      error = support.rel_l2(ours[f"{group}:{i}"], case.tensor(f"{group}.{key}"))
      assert error <= tau, f"{case.name}: {group}.{key}: {error:.1e}"


def check_parameters(case, state, initial, changes):
  loose = set(case["loose_parameters"]["names"])
  bare = lambda name: name.split(":")[1]
  spec = case["fingerprints"]["parameter_change_each_iteration"]["names"]
  # At iteration 0 the rate is next to nothing and a change is float32 rounding.
  out = [name for name in spec if bare(name) in loose or name.endswith(":0")]
  tau = case.tolerance("parameter_change_each_iteration_rel_l2")
  case.check_fingerprints("parameter_change_each_iteration", changes, tau, leave_out=out)

  final = change(state, initial)
  out = [name for name in final if bare(name) in loose]
  tau = case.tolerance("parameter_change_final_rel_l2")
  case.check_fingerprints("parameter_change_final", final, tau, leave_out=out)
  values = released(state.params["student"])
  final = {f"param:{name}": x for name, x in values.items()}
  out = [f"param:{name}" for name in loose]
  case.check_fingerprints("parameter_final", final, tau, leave_out=out)
  for key in case["tensors"]:
    if key.startswith("param_final."):
      name = key.removeprefix("param_final.")
      step_size = case["training"]["lr"] * tau * len(case["iterations"])
      support.assert_close(values[name], case.tensor(key), atol=step_size, what=key)
