"""CLIP whole: transformers' `CLIPModel` names, and our shape from and to its config."""

from typing import Any

from convert_weights.names import Rule, Table
from convert_weights.tables import clip_text, clip_vision
from imx2mx_jax.models.clip import ClipShape
from imx2mx_jax.models.clip_vision import ClipVisionShape

DIALECTS = (
  Table(
    (
      *clip_text.tower("text/", "text_model."),
      Rule("text_projection/kernel", "text_projection.weight", "linear"),
      *clip_vision.tower("vision/", "vision_model.", "visual_projection"),
      Rule("logit_scale", "logit_scale"),
    ),
    # buffers of older files, always 0, 1, 2, ...
    skip=(r"(text|vision)_model\.embeddings\.position_ids",),
  ),
)


def shape(config: dict) -> ClipShape:
  """Our shape from a `CLIPConfig`."""
  text = config["text_config"]
  return ClipShape(
    text=clip_text.shape(text),
    vision=clip_vision.shape(config),
    end_token=text.get("eos_token_id", 49407),
  )


def config(shape: ClipShape) -> dict[str, Any]:
  """A `CLIPConfig` for our shape."""
  common = {"projection_dim": shape.vision.embed_width}
  return {
    "architectures": ["CLIPModel"],
    "model_type": "clip",
    **common,
    "text_config": clip_text.config(shape.text) | common | {"eos_token_id": shape.end_token},
    "vision_config": clip_vision.transformers_config(shape.vision) | common,
  }


def processor(shape: ClipVisionShape) -> dict[str, Any]:
  """A `CLIPImageProcessor`'s preprocessor_config.json for the vision tower."""
  size = shape.image_size
  return {
    "image_processor_type": "CLIPImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": size},
    "resample": 3,  # bicubic
    "do_center_crop": True,
    "crop_size": {"height": size, "width": size},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": shape.mean,
    "image_std": shape.std,
  }
