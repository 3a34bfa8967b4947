"""Pictures of feature maps, drawn with Pillow alone."""

from convscope_client.drawing.sheet import draw_feature_maps

__all__ = ["draw_feature_maps"]
