"""Eight-bit integers for the frozen base: explicit Q/DQ nodes in a bundle's graph, placed by calibration."""
