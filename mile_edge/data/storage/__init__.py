"""Bag files of every kind as one stream of raw records, damaged files included."""
