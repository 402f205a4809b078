"""From sensors, bags, folders and a procedural street to frames with labels."""
