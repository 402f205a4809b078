"""The robot side: frames in, masks out, experts added and removed while frames flow."""

from mile_edge.runtime.segmenter import Segmentation, Segmenter

__all__ = ["Segmentation", "Segmenter"]
