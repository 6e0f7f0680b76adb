"""CLIP whole: transformers' `CLIPModel` names, and our shape from its config."""

from convert_weights.names import Rule, Table
from convert_weights.tables import clip_text, clip_vision
from imx2mx_jax.models.clip import ClipShape

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
