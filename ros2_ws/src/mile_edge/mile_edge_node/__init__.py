"""The robot node: messages in, masks out. It holds no segmentation logic; that is the library `mile_edge`."""
