"""Packaging. Extras: accelerators (cuda, tpu), further commands (app, colmap, depth), tests."""

import pathlib
import re

from setuptools import find_packages, setup

here = pathlib.Path(__file__).parent
source = (here / "imx2mx_jax" / "__init__.py").read_text()

setup(
  name="imx2mx_jax",
  version=re.search(r'__version__ = "(.+)"', source)[1],
  description="Consistent multi-view photo editing by instruction, in JAX (InstructMix2Mix)",
  license="Apache-2.0",
  license_files=["LICENSE"],
  python_requires=">=3.11",
  packages=find_packages(include=["imx2mx_jax*", "convert_weights*"]),
  package_data={
    "imx2mx_jax.app": ["page.css"],
    "imx2mx_jax.micro": ["**/*.json", "**/*.safetensors", "**/*.png", "**/*.txt", "**/*.md"],
    "imx2mx_jax.report": ["templates/*"],
  },
  install_requires=[
    "absl-py>=2.1",
    "diffusers>=0.38",
    "etils[epath]>=1.11",
    "flax>=0.12.8",
    "fsspec>=2025.2",
    "huggingface_hub>=1.0",
    "imageio-ffmpeg>=0.6",
    "jax>=0.10",
    "jaxtyping>=0.3.3",
    "jinja2>=3.1",
    "matplotlib>=3.9",
    "ml_collections>=1.0",
    "numpy>=2.0",
    "opencv-python-headless>=4.10",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "pillow>=11.0",
    "psutil>=6.0",
    "rich>=13.9",
    "safetensors>=0.6",
    "scikit-image>=0.25",
    "scipy>=1.14",
    "tensorboard>=2.20",
    "transformers>=5.0",
  ],
  extras_require={
    "cuda": ["jax[cuda13]"],
    "tpu": ["jax[tpu]"],
    "colmap": ["pycolmap>=4.2"],
    "app": ["gradio>=6.31", "pycolmap>=4.2"],
    "depth": ["torch>=2.6", "torchvision>=0.21"],
    "gcs": ["gcsfs>=2025.2"],
    "test": [
      "beartype>=0.22",
      "gradio>=6.31",
      "playwright>=1.65",
      "pycolmap>=4.2",
      "pytest>=9.0",
      "pytest-xdist>=3.6",
      "ruff>=0.17",
    ],
    # The versions that fit torch's CPU build; plain `torch` would bring gigabytes of CUDA.
    "parity": [
      "kornia==0.9.0",
      "open_clip_torch==3.3.0",
      "torch==2.13.0",
      "torchvision==0.28.0",
    ],
  },
)
