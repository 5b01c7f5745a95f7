"""Names of the files in a run folder and in an exported folder."""

from __future__ import annotations

BEST, LAST = "checkpoint_best.pt", "checkpoint_last.pt"

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
README = "README.md"
FROM_DATA_FOLDER = ("spm.model", "dict.txt", "directions.txt", "corpus.json")
#: The files of an exported folder whose checksums config.json holds.
PARTS = (WEIGHTS, *FROM_DATA_FOLDER)
#: What exported folders of other formats hold besides: transformers' and CTranslate2's.
TOKENIZER_CONFIG, GENERATION_CONFIG = "tokenizer_config.json", "generation_config.json"
CTRANSLATE2_WEIGHTS, CTRANSLATE2_VOCABULARY = "model.bin", "shared_vocabulary.json"
OTHER_PARTS = (TOKENIZER_CONFIG, GENERATION_CONFIG, CTRANSLATE2_WEIGHTS, CTRANSLATE2_VOCABULARY)
#: Where config.json has our record of the model in formats whose config.json is another program's.
RECORD = "smoe_mt"
REMEDY = "export the model again, or fetch the folder again"

#: What a folder is asked for, in this order.
CHECKPOINT_NAMES = (BEST, LAST, WEIGHTS)

#: How the names of gates' buffers end: they are no parameters, and stay in float32 where weights are written in half precision.
BUFFERS_OF_GATES = (".selection_bias", ".active", ".counts", ".silent", ".updates")
