"""What ``benchmarks/gpu.py`` measures, one module per question."""
