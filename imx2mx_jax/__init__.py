"""Consistent edits of many views by instruction, in JAX (InstructMix2Mix, arXiv 2511.14899)."""

__version__ = "0.1.0"
