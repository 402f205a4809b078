"""From torch to ONNX: the one graph that everything else runs."""
