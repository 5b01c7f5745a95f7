"""Names of the files in a run folder and in an exported folder."""

from __future__ import annotations

BEST, LAST = "checkpoint_best.pt", "checkpoint_last.pt"

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
README = "README.md"
FROM_DATA_FOLDER = ("spm.model", "dict.txt", "directions.txt", "corpus.json")
#: The files of an exported folder whose checksums config.json holds.
PARTS = (WEIGHTS, *FROM_DATA_FOLDER)
REMEDY = "export the model again, or fetch the folder again"

#: What a folder is asked for, in this order.
CHECKPOINT_NAMES = (BEST, LAST, WEIGHTS)

#: How the names of gates' buffers end: they are no parameters, and stay in float32 where weights are written in half precision.
BUFFERS_OF_GATES = (".selection_bias", ".active", ".counts", ".silent", ".updates")
