"""From held-out frames to the numbers a bundle runs with."""
