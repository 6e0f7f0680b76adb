"""SEVA's network equals the reference's: outputs, activations after every block, gradients."""

import jax
import numpy as np
import pytest

from convert_weights.tables import seva as table
from imx2mx_jax.models import seva
from imx2mx_jax.models.network import Network
from tests.golden import support

pytestmark = pytest.mark.golden


def build(case: support.Case) -> Network:
  return case.network(seva.Seva, table.shape(case["config"]), table.DIALECTS)


def inputs(case: support.Case):
  x, dense = support.nhwc(case.input("x")), support.nhwc(case.input("dense_y"))
  return x, np.array(case["timesteps"]), case.input("y"), dense


def check_output(case: support.Case, output):
  tolerance = case["tolerance"]
  if "output_rel_l2" in tolerance:
    error = support.rel_l2(support.nchw(output), case.tensor("output"))
    assert error <= tolerance["output_rel_l2"], f"{case.name}: output: {error:.1e}"
    return
  support.assert_close(
    support.nchw(output),
    case.tensor("output"),
    atol=tolerance["output_atol"],
    rtol=tolerance["output_rtol"],
    what=f"{case.name}: output",
  )


def check_activations(case: support.Case, recorded: dict[str, np.ndarray]):
  """recorded: outputs by path of our layers; the last layer of a block is the block's output."""
  ours = {}
  for name in case["fingerprints"]["activations"]["names"]:
    block = name.removeprefix("act:").replace(".", "/")
    layers = [path for path in recorded if path == block or path.rpartition("/")[0] == block]
    ours[name] = recorded[max(layers, key=lambda path: path.rpartition("/")[2])]
  ours = {name: support.nchw(x) if x.ndim == 4 else x for name, x in ours.items()}
  case.check_fingerprints("activations", ours, case.tolerance("activation_rel_l2"))
  for key in case["tensors"]:
    if key.startswith("act."):
      error = support.rel_l2(ours[key.replace("act.", "act:")], case.tensor(key))
      assert error <= case.tolerance("activation_rel_l2"), f"{case.name}: {key}: {error:.1e}"


def check_forward(case: support.Case):
  module = build(case).module
  with support.record(module) as recorded:
    output = module(*inputs(case), frames=case["num_frames"])
  check_activations(case, recorded)
  check_output(case, output)


@support.cases("seva_tiny", quick=1)
def test_activations_and_output_equal_the_reference(case):
  check_forward(case)


@pytest.mark.slow
@support.cases("seva_full")
def test_released_size_equals_the_reference(case):
  network = build(case)
  assert sum(x.size for x in network.params.values()) == case["parameter_count"]
  del network
  check_forward(case)


@support.cases("seva_tiny", quick=1)
def test_gradients_equal_the_reference(case):
  if "gradients" not in case["fingerprints"]:
    pytest.skip(f"{case.name} is forward only")
  network, (x, timesteps, context, dense) = build(case), inputs(case)
  cotangent = support.nhwc(case.input("cotangent"))

  @jax.jit
  def gradients(params, x, context, dense):
    def inner(params, x, context, dense):
      y = Network(network.graphdef, params)(x, timesteps, context, dense, frames=case["num_frames"])
      return (y * cotangent).sum()

    return jax.grad(inner, argnums=(0, 1, 2, 3))(params, x, context, dense)

  of_params, of_x, of_context, of_dense = gradients(network.params, x, context, dense)
  ours = {f"grad:{name}": g for name, g in support.released(of_params, table.DIALECTS[0]).items()}
  ours |= {
    "grad:input:x": support.nchw(of_x),
    "grad:input:y": np.asarray(of_context),
    "grad:input:dense_y": support.nchw(of_dense),
  }
  zero = case["zero_gradients"]
  for name in zero["names"]:
    assert np.linalg.norm(ours[name]) <= 1e-4 * zero["largest_gradient_l2"], name
  tau = case.tolerance("gradient_rel_l2")
  case.check_fingerprints("gradients", ours, tau, leave_out=zero["names"])
  for key in case["tensors"]:
    if key.startswith("grad.") and key.replace("grad.", "grad:", 1) not in zero["names"]:
      error = support.rel_l2(ours[key.replace("grad.", "grad:", 1)], case.tensor(key))
      assert error <= tau, f"{case.name}: {key}: {error:.1e} relative, allowed {tau}"
