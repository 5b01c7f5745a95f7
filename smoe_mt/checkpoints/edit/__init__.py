"""Checkpoints made of checkpoints: averaged or converted."""
