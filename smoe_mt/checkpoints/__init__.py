"""Checkpoint files: safe reading, inspection, averaging, conversion, sharding."""
