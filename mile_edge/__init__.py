"""One frozen segmentation network for every sensor and weather, with a tiny low-rank expert chosen for each frame."""

__version__ = "0.1.0"
