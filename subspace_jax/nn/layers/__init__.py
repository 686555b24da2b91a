"""Layers that Flax does not have."""
