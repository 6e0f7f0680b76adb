"""The settings of `python -m benchmarks.ablations`: configs/default.py with fewer iterations.

Eight scenes, four instructions and two seeds are 64 cases, of which each of the six rows that
distill takes 64 runs: they must be short for the table to fit in three hours on 2 cores. These take
48 iterations, 20 s at the pace in benchmarks/RESULTS.md. Settings are to be chosen on other scenes
than those reported.
"""

import pathlib
import runpy

DEFAULT = pathlib.Path(__file__).with_name("default.py")


def get_config():
  config = runpy.run_path(str(DEFAULT))["get_config"]()
  config.distill.iterations_first = 15
  config.distill.iterations = 3
  config.optim.warmup = 8
  return config
