"""TensorRT: a bundle's graph as an engine, its experts as rows of device memory."""
