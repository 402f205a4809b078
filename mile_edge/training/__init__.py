"""The workshop: training a base once, and an expert for each new situation."""
