"""Spiking networks: encode images as spikes over time, convert a trained classifier, count what its spikes cost."""

from subspace_jax.spiking import encode, energy, network, thresholds

__all__ = ["encode", "energy", "network", "thresholds"]
