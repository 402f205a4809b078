"""The robot side: frames in, masks out, experts added and removed while frames flow."""

from mile_edge.runtime.fusion import Fused, SensorFrame
from mile_edge.runtime.segmentation import Segmentation
from mile_edge.runtime.segmenter import Segmenter

__all__ = ["Fused", "Segmentation", "Segmenter", "SensorFrame"]
