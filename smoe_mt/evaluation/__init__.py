"""Scores: a checkpoint translates every direction of a split, and metrics compare that with the references."""
