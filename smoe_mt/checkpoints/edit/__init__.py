"""Checkpoints made of checkpoints: averaged, converted, a mixture of experts started from a dense model."""
