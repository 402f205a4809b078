"""The command ``mile-edge``."""
