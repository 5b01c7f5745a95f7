"""A decoder of our own for searches: prepared once from a model's weights, with caches that are written in place."""

from smoe_mt.search.decoder.prepared import PreparedDecoder, State, prepare

__all__ = ["PreparedDecoder", "State", "prepare"]
