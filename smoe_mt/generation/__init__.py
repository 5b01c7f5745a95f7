"""Translation: a checkpoint in, one object out that turns raw sentences into raw sentences."""

from smoe_mt.generation.checkpoint import LoadedModel, load_model
from smoe_mt.generation.details import Candidate, Translation, Visits
from smoe_mt.generation.translator import Text, Translator
from smoe_mt.search.beam import Decoding

__all__ = ["Candidate", "Decoding", "LoadedModel", "Text", "Translation", "Translator", "Visits", "load_model"]
