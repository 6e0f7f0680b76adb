"""The time and memory of one iteration at the paper's size, measured on the device at hand.

    python -m benchmarks.gpu_step [--memory=default|small|smallest] [--size=full|micro]

4 views, 576 px, bfloat16, random weights, one device; --size=micro takes the bundled models' shapes
and runs anywhere. Where PyTorch sees the same GPU (extra `parity`) the teacher's forward pass is
timed against diffusers' UNet, both in bfloat16. The last line is a JSON object: device, size,
memory, compile_seconds, seconds_per_iteration (the median of the calls), tflops_per_second,
share_of_peak and peak_gb (null where they are not known), and minutes (of a whole edit).
"""

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from benchmarks import machine
from benchmarks.step import ITERATIONS, SIZES, VIEWS, Size, arguments, filled, model_flops
from imx2mx_jax import distill, flops
from imx2mx_jax.models.unet import UNet

CALLS = 9
"""Timed, after one that is not."""


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--memory", default="default", choices=("default", "small", "smallest"))
  parser.add_argument("--size", default="full", choices=tuple(SIZES))
  parser.add_argument("--iterations", type=int, default=10, help="of one call")
  args = parser.parse_args()
  device, size = jax.devices()[0], SIZES[args.size]
  print(f"{machine.describe()}, {device.device_kind}", flush=True)

  method, (state, teacher, cond, key) = arguments(size, args.memory, real=True)
  count = jnp.int32(args.iterations)
  began = time.monotonic()
  steps = distill.distill_steps.lower(
    method, state, teacher, cond, key, count, most=args.iterations
  ).compile()
  compiling = time.monotonic() - began
  print(f"compiled in {compiling:.1f} s", flush=True)

  times = []
  for _ in range(CALLS + 1):
    began = time.perf_counter()
    state, _ = jax.block_until_ready(steps(state, teacher, cond, key, count))
    times.append((time.perf_counter() - began) / args.iterations)
  seconds = statistics.median(times[1:])
  rate, peak = model_flops(size) / seconds / 1e12, flops.peak([device])
  held = (device.memory_stats() or {}).get("peak_bytes_in_use")
  print(
    f"an iteration: {seconds:.4g} s (median of {CALLS} calls of {args.iterations}, from "
    f"{min(times[1:]):.4g} to {max(times[1:]):.4g})",
    flush=True,
  )
  del state, teacher, cond
  print(_against_torch(size), flush=True)
  print(
    json.dumps(
      {
        "device": device.device_kind,
        "size": args.size,
        "memory": args.memory,
        "compile_seconds": round(compiling, 1),
        "seconds_per_iteration": float(f"{seconds:.4g}"),
        "tflops_per_second": float(f"{rate:.4g}"),
        "share_of_peak": round(rate / peak, 3) if peak else None,
        "peak_gb": round(held / 1e9, 2) if held else None,
        "minutes": round(seconds * ITERATIONS / 60, 2),
      }
    )
  )


def _against_torch(size: Size) -> str:
  """The teacher's forward pass beside diffusers', or why it is not."""
  if not all(map(importlib.util.find_spec, ("torch", "diffusers"))):
    return "no peer: PyTorch and diffusers are not installed"
  import torch

  if not torch.cuda.is_available():
    return "no peer: PyTorch sees no GPU"
  from benchmarks import forward

  rows = forward.BRANCHES * VIEWS
  network = filled(UNet, size.unet, dtype=jnp.bfloat16)
  blank = lambda *shape: jnp.zeros((rows, *shape))
  inputs = (
    blank(size.teacher, size.teacher, size.unet.in_channels),
    jnp.asarray(500),
    blank(size.tokens, size.unet.context_width),
  )
  run = jax.jit(lambda network, *x: network(*x, key_view=jnp.int32(1), views=VIEWS))
  ours = _median(lambda: run(network, *inputs).block_until_ready())
  model = forward.theirs(size.unet, rows, size.teacher, size.tokens, device="cuda")
  theirs = _median(lambda: (model(), torch.cuda.synchronize()))
  return f"the teacher's forward pass: {ours:.4g} s, diffusers {theirs:.4g} s, {ours / theirs:.2f}"


def _median(call: Callable[[], object]) -> float:
  """Seconds, of several calls after one that is not timed."""
  times = []
  for _ in range(CALLS + 1):
    began = time.perf_counter()
    call()
    times.append(time.perf_counter() - began)
  return statistics.median(times[1:])


if __name__ == "__main__":
  main()
