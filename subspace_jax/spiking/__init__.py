"""Spiking networks: images as spikes over time, converted classifiers, their cost, how narrow they can be."""

from subspace_jax.spiking import encode, energy, fold, follow, network, pruning, temporal_pruning, thresholds

__all__ = ["encode", "energy", "fold", "follow", "network", "pruning", "temporal_pruning", "thresholds"]
