"""The settings of `python -m benchmarks.ablations`: configs/default.py with fewer iterations.

Eight scenes, four instructions and two seeds are 64 cases, of which each of the six rows that
distill takes 64 runs: they must be short for the table to fit in three hours on 2 cores. These take
36 iterations. They were chosen on other scenes than those reported (seeds 930,000,000 and on).
"""

import pathlib
import runpy

DEFAULT = pathlib.Path(__file__).with_name("default.py")


def get_config():
  config = runpy.run_path(str(DEFAULT))["get_config"]()
  config.distill.iterations_first = 14
  config.distill.iterations = 2
  config.optim.lr = 1.5e-5
  config.optim.warmup = 8
  return config
