"""Every test computes in float32 at the highest precision."""

import jax

jax.config.update("jax_default_matmul_precision", "highest")
