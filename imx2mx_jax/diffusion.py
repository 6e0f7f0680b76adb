"""The arithmetic of diffusion: schedules, noising, guidance, steps. No networks.

Symbols are the paper's: zeta and tau are the student's latents and timestep, z and t the teacher's.
Noise levels may be scalars or one per row; they broadcast over the axes that follow.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri

from imx2mx_jax.shapes import Array, Float, Int, Num, np

Level = float | Float[Array, ""] | Float[Array, " B"]
"""A noise level or a scale: one for all rows, or one for each."""

Index = int | Int[Array, ""] | Int[Array, " B"]
"""A timestep, an index into a schedule."""


@dataclasses.dataclass(frozen=True)
class StudentSchedule:
  """SEVA's noise levels: sigma = sqrt((1 - acp) / acp) exp(shift), with sqrt(beta) linear."""

  linear_start: float = 5e-6
  linear_end: float = 0.012
  log_snr_shift: float = 2.4
  steps: int = 1000

  @functools.cached_property
  def sigmas(self) -> Float[np.ndarray, " S"]:
    """All levels, ascending: tau = 0 is the cleanest."""
    acp = np.cumprod(1 - _betas(self.linear_start, self.linear_end, self.steps))
    return (np.sqrt((1 - acp) / acp) * np.exp(self.log_snr_shift)).astype(np.float32)

  def sigma(self, tau: Index) -> Float[Array, "..."]:
    """sigma_tau."""
    return jnp.asarray(self.sigmas)[tau]

  def init_scale(self, tau: Index = -1) -> Float[Array, "..."]:
    """The standard deviation of zeta before a first step at tau: sqrt(1 + sigma_tau^2)."""
    return jnp.sqrt(1 + self.sigma(tau) ** 2)

  def nearest(self, sigma: Level) -> Int[Array, "..."]:
    """The timestep whose level is nearest to sigma; the cleaner one on ties."""
    distance = jnp.abs(jnp.asarray(sigma)[..., None] - self.sigmas)
    return jnp.argmin(distance, axis=-1)

  def noised(
    self,
    zeta0: Float[Array, "B *C"],
    eps: Float[Array, "B *C"],
    tau: Index,
    *,
    authors: bool = False,
  ) -> Float[Array, "B *C"]:
    """Clean latents at the level of tau: zeta0 + sigma_tau eps.

    authors: eps is divided by its variance (not by its standard deviation) and scaled by
    sqrt(sigma_tau^2 - sigma_0^2), as if zeta0 were at the schedule's cleanest level.
    """
    if not authors:
      return zeta0 + rows(self.sigma(tau), zeta0) * eps
    scale = jnp.sqrt(self.sigma(tau) ** 2 - self.sigma(0) ** 2)
    return zeta0 + rows(scale, zeta0) * eps / jnp.var(eps, ddof=1)


@dataclasses.dataclass(frozen=True)
class TeacherSchedule:
  """Stable Diffusion's schedule: z_t = alpha_t z0 + sigma_t eps, sqrt(beta) linear."""

  beta_start: float = 0.00085
  beta_end: float = 0.012
  steps: int = 1000

  @functools.cached_property
  def alphas_cumprod(self) -> Float[np.ndarray, " S"]:
    """Rounded to float32 where the released schedulers round: betas, then products."""
    betas = _betas(self.beta_start, self.beta_end, self.steps).astype(np.float32)
    return np.cumprod(1 - betas, dtype=np.float64).astype(np.float32)

  @property
  def alphas(self) -> Float[np.ndarray, " S"]:
    """alpha_t of every t."""
    return np.sqrt(self.alphas_cumprod)

  @property
  def sigmas(self) -> Float[np.ndarray, " S"]:
    """sigma_t of every t."""
    return np.sqrt(1 - self.alphas_cumprod)

  def alpha_sigma(
    self, t: Index | Num[Array, ""]
  ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """alpha_t and sigma_t. Between timesteps their ratio is interpolated, as in `euler_steps`."""
    if jnp.issubdtype(jnp.result_type(t), jnp.floating):
      ratio = jnp.interp(t, jnp.arange(self.steps), jnp.asarray(self.sigmas / self.alphas))
      alpha = jax.lax.rsqrt(1 + ratio**2)
      return alpha, ratio * alpha
    return jnp.asarray(self.alphas)[t], jnp.asarray(self.sigmas)[t]

  def euler_steps(
    self, count: int
  ) -> tuple[Float[np.ndarray, " count"], Float[np.ndarray, " count+1"]]:
    """Fractional timesteps and noise-to-signal ratios of Euler sampling, the last ratio being 0.

    Source: diffusers' EulerAncestralDiscreteScheduler, timestep_spacing="linspace".
    """
    t = np.linspace(0, self.steps - 1, count, dtype=np.float32)[::-1]
    ratios = np.interp(t, np.arange(self.steps), self.sigmas / self.alphas)
    return t, np.append(ratios, 0).astype(np.float32)


def _betas(start: float, end: float, steps: int) -> Float[np.ndarray, " S"]:
  return np.linspace(np.sqrt(start), np.sqrt(end), steps) ** 2


def rows(level: Level, x: Num[Array, "..."]) -> Float[Array, "..."]:
  """A level shaped so that it multiplies x row by row."""
  level = jnp.asarray(level, jnp.float32)
  return level.reshape(level.shape + (1,) * (x.ndim - level.ndim))


# --- which timesteps -------------------------------------------------------------------------


def student_timesteps(t_max: int = 999, t_min: int = 25, dt: int = 25) -> tuple[int, ...]:
  """The student's descending timesteps tau, about dt apart, from t_max to t_min inclusive."""
  count = (t_max + 1 - t_min) // dt + 1
  return tuple(int(tau) for tau in np.linspace(t_max, t_min, count))


def iterations_per_timestep(
  timesteps: tuple[int, ...], first: int = 200, others: int = 50, *, authors: bool = False
) -> tuple[int, ...]:
  """How many iterations each timestep gets: `first` at the first one, `others` after it.

  authors: the first timestep is recognised by tau = 999; another start gets `others`.
  """
  if authors:
    return tuple(first if tau == 999 else others for tau in timesteps)
  return (first,) + (others,) * (len(timesteps) - 1)


def sampling_timesteps(count: int, steps: int = 1000) -> tuple[int, ...]:
  """The descending timesteps of SEVA's plain sampling, from the noisiest one."""
  return tuple(int(tau) for tau in np.linspace(steps - 1, 0, count, endpoint=False))


def teacher_timesteps(share: float, count: int, steps: int = 1000) -> tuple[int, ...]:
  """At most `count` descending timesteps of the teacher, spread over the lowest share of all."""
  spread = np.linspace(round(share * (steps - 1)), 0, count, endpoint=False, dtype=int)
  return tuple(int(t) for t in np.unique(spread)[::-1] if t)


def truncated_normal_ppf(
  u: Float[Array, "..."],
  lower: Num[Array, "..."] | float,
  upper: Num[Array, ""] | float,
  shape_factor: float,
) -> Float[Array, "..."]:
  """Quantile u in [0, 1] of a normal cut to [lower, upper], computed in u's precision.

  The mode is at upper, the scale is (upper - lower) / shape_factor.
  """
  below = ndtr(jnp.asarray(-shape_factor, u.dtype))
  return upper + (upper - lower) / shape_factor * ndtri(below + u * (0.5 - below))


def teacher_timestep(
  u: Float[Array, ""],
  tau: int | Int[Array, ""],
  rule: str = "truncated_normal",
  *,
  lowest: int = 50,
  highest: int | Int[Array, ""] = 950,
  shape_factor: float = 0.5,
) -> Int[Array, ""]:
  """The teacher's timestep t of one iteration, from a uniform u in [0, 1).

  rule: "truncated_normal", the method's: an integer of [tau, highest), likelier towards `highest`,
    and `highest` itself where tau is not below it; "uniform": an integer of [lowest, highest];
    "matched": t = tau. ValueError for any other.
  """
  if rule == "truncated_normal":
    t = truncated_normal_ppf(u, tau, highest, shape_factor).astype(jnp.int32)
    return jnp.where(tau < highest, jnp.clip(t, tau, highest - 1), highest)
  if rule == "uniform":
    t = lowest + jnp.floor(u * (highest + 1 - lowest)).astype(jnp.int32)
    return jnp.minimum(t, highest)
  if rule == "matched":
    return jnp.asarray(tau, jnp.int32)
  raise ValueError(f"unknown rule {rule!r} for the teacher's timestep")


# --- the teacher -----------------------------------------------------------------------------


def add_noise(
  z0: Float[Array, "B *C"], eps: Float[Array, "B *C"], alpha: Level, sigma: Level
) -> Float[Array, "B *C"]:
  """z_t = alpha_t z0 + sigma_t eps."""
  return rows(alpha, z0) * z0 + rows(sigma, z0) * eps


def predict_z0(
  z_t: Float[Array, "B *C"], eps_hat: Float[Array, "B *C"], alpha: Level, sigma: Level
) -> Float[Array, "B *C"]:
  """Tweedie's estimate of the clean latents: (z_t - sigma_t eps_hat) / alpha_t."""
  return (z_t - rows(sigma, z_t) * eps_hat) / rows(alpha, z_t)


def eps_from_v(
  v: Float[Array, "B *C"], z_t: Float[Array, "B *C"], alpha: Level, sigma: Level
) -> Float[Array, "B *C"]:
  """The noise that a v-predicting network means: alpha_t v + sigma_t z_t."""
  return rows(alpha, z_t) * v + rows(sigma, z_t) * z_t


def guide(
  e_text: Float[Array, "B *C"], e_none: Float[Array, "B *C"], scale: Level
) -> Float[Array, "B *C"]:
  """Classifier-free guidance: e_none + s (e_text - e_none)."""
  return e_none + rows(scale, e_none) * (e_text - e_none)


def guide_text_image(
  e_text: Float[Array, "B *C"],
  e_image: Float[Array, "B *C"],
  e_none: Float[Array, "B *C"],
  text_scale: Level,
  image_scale: Level,
) -> Float[Array, "B *C"]:
  """InstructPix2Pix's guidance: e_none + s_T (e_text - e_image) + s_I (e_image - e_none)."""
  text, image = rows(text_scale, e_none), rows(image_scale, e_none)
  return e_none + text * (e_text - e_image) + image * (e_image - e_none)


def rescale(
  guided: Float[Array, "B *C"], e_text: Float[Array, "B *C"], share: float
) -> Float[Array, "B *C"]:
  """Guided noise whose spread in each row is brought near the unguided one's; share 0: as it is.

  Source: Lin et al. 2023 (arXiv 2305.08891), section 3.4, on the noise itself.
  """
  axes = tuple(range(1, guided.ndim))
  spread = e_text.std(axes, keepdims=True) / guided.std(axes, keepdims=True)
  return share * spread * guided + (1 - share) * guided


def unit(x: Float[Array, "B *C"]) -> Float[Array, "B *C"]:
  """x at a root mean square of one, over all rows together."""
  return x / jnp.sqrt(jnp.mean(jnp.square(x)) + 1e-12)


def sds_loss(
  z0: Float[Array, "B *C"],
  eps_hat: Float[Array, "B *C"],
  eps: Float[Array, "B *C"],
  *,
  authors: bool = False,
) -> Float[Array, ""]:
  """The mean of (eps_hat - eps) z0. Its gradient is score distillation's: (eps_hat - eps) / size.

  authors: what is not finite in the difference counts as zero, so a broken teacher goes unnoticed.
  """
  difference = jax.lax.stop_gradient(eps_hat - eps)
  if authors:
    difference = jnp.where(jnp.isfinite(difference), difference, 0)
  return jnp.mean(difference * z0)


# --- the student -----------------------------------------------------------------------------


def scale_input(zeta: Float[Array, "T *C"], sigma: Level) -> Float[Array, "T *C"]:
  """What the student's network sees: c_in zeta, c_in = 1 / sqrt(sigma^2 + 1)."""
  return zeta / rows(jnp.sqrt(jnp.square(sigma) + 1), zeta)


def predict_zeta0(
  zeta: Float[Array, "T *C"], output: Float[Array, "T *C"], sigma: Level
) -> Float[Array, "T *C"]:
  """The clean latents from the network's output: zeta + c_out F, c_out = -sigma."""
  return zeta - rows(sigma, zeta) * output


def euler_step(
  zeta: Float[Array, "T *C"], zeta0: Float[Array, "T *C"], sigma: Level, sigma_next: Level
) -> Float[Array, "T *C"]:
  """zeta + (sigma_next - sigma) (zeta - zeta0) / sigma."""
  return zeta + rows((sigma_next - sigma) / sigma, zeta) * (zeta - zeta0)


def accidental_noise_scale(sigma: Float[Array, "..."]) -> Float[Array, "..."]:
  """The authors' noise before an Euler step: sqrt((sigma + 1e-6)^2 - sigma^2) in float32.

  Its rounding is what matters (0 where sigma > 33, and never above .013), so it is done on the
  host, where no compiler contracts the difference.
  """
  sigma = np.asarray(sigma, np.float32)
  raised = sigma + np.float32(1e-6)
  return np.sqrt(raised * raised - sigma * sigma)


# --- ancestral sampling, for the reference edit ----------------------------------------------


def ancestral_step(
  x: Float[Array, "B *C"],
  eps_hat: Float[Array, "B *C"],
  noise: Float[Array, "B *C"],
  sigma: Level,
  sigma_next: Level,
) -> Float[Array, "B *C"]:
  """One ancestral Euler step: down to sigma_next^2 / sigma, then up to sigma_next by fresh noise.

  x = z_t / alpha_t, at noise-to-signal ratio sigma. Source: Karras et al. 2022, k-diffusion.
  """
  ratio = sigma_next / sigma
  down = ratio * sigma_next
  up = sigma_next * jnp.sqrt((1 - ratio) * (1 + ratio))
  return x + rows(down - sigma, x) * eps_hat + rows(up, x) * noise
