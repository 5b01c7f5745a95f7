"""A folder for transformers (``--format huggingface``), which `smoe_mt.hf` makes known to it; smoe_mt reads it as well."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smoe_mt.checkpoints.names import GENERATION_CONFIG, RECORD, TOKENIZER_CONFIG
from smoe_mt.checkpoints.schema import tied_tensors
from smoe_mt.checksums import sealed
from smoe_mt.devices import DTYPES
from smoe_mt.export import native
from smoe_mt.export.card import external_system
from smoe_mt.export.folder import Format, Record
from smoe_mt.files import write_json
from smoe_mt.generation.checkpoint import LoadedModel
from smoe_mt.search.beam import Decoding


def write(loaded: LoadedModel, folder: Path, dtype: str) -> Sequence[str]:
    """What smoe_mt reads, and what transformers reads besides."""
    names = native.write(loaded, folder, dtype)
    write_json(folder / TOKENIZER_CONFIG, tokenizer_config(loaded))
    write_json(folder / GENERATION_CONFIG, generation_config(loaded))
    return (*names, TOKENIZER_CONFIG, GENERATION_CONFIG)


def tokenizer_config(loaded: LoadedModel) -> Record:
    """The settings of `smoe_mt.hf.SMoETokenizer`."""
    source, target = loaded.task.directions[0].split("-")
    return {
        "tokenizer_class": "SMoETokenizer",
        "src_lang": source,
        "tgt_lang": target,
        "model_max_length": int(loaded.model.max_positions()[0]),
        "clean_up_tokenization_spaces": False,
    }


def special_ids(loaded: LoadedModel) -> Record:
    """Of the vocabulary; an output starts with </s>."""
    dictionary = loaded.task.dictionary
    bos, pad, eos = dictionary.bos(), dictionary.pad(), dictionary.eos()
    return {"bos_token_id": bos, "pad_token_id": pad, "eos_token_id": eos, "decoder_start_token_id": eos}


def generation_config(loaded: LoadedModel) -> Record:
    """With these settings transformers' search finds what `smoe_mt.search` finds with its own."""
    decoding, ids = Decoding(), special_ids(loaded)
    return {
        **ids,
        "num_beams": decoding.beam,
        "length_penalty": decoding.lenpen,
        "early_stopping": True,
        "min_new_tokens": decoding.min_len,
        "suppress_tokens": [ids["pad_token_id"]],
    }


def config(loaded: LoadedModel, folder: Path, record: Record) -> Record:
    """transformers' configuration of the model, with the record in it."""
    model = record["config"]["model"]
    tied = tied_tensors(loaded.model.state_dict())
    return {
        "architectures": ["SMoEForConditionalGeneration"],
        "model_type": "smoe_mt",
        "dtype": DTYPES[record["dtype"]],
        "is_encoder_decoder": True,
        "vocab_size": len(loaded.task.dictionary),
        "d_model": model["encoder_embed_dim"],
        **{f"{side}_layers": model[f"{side}_layers"] for side in ("encoder", "decoder")},
        **{f"{side}_attention_heads": model[f"{side}_attention_heads"] for side in ("encoder", "decoder")},
        **{f"{side}_ffn_dim": model[f"{side}_ffn_embed_dim"] for side in ("encoder", "decoder")},
        "max_position_embeddings": model["max_source_positions"],
        "moe": model["moe"],
        "tie_word_embeddings": bool(tied),
        **special_ids(loaded),
        RECORD: sealed({**record, "tied": tied}),
    }


def use(record: Record) -> str:
    """With transformers, and with smoe_mt."""
    source, target = record["directions"][0].split("-")
    return f"""With transformers (`pip install 'smoe_mt[hf]'`):

```python
import smoe_mt.hf  # makes models of smoe_mt known to transformers
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

folder = "."  # the path of this folder
tokenizer = AutoTokenizer.from_pretrained(folder, src_lang="{source}", tgt_lang="{target}")
model = AutoModelForSeq2SeqLM.from_pretrained(folder)
inputs = tokenizer(["..."], return_tensors="pt", padding=True, truncation=True)
print(tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True))
```

`generation_config.json` has the settings of `smoe-mt translate`. With smoe_mt:

{external_system(record)}```bash
smoe-mt translate -m {record["name"]} -s {source} -t {target} < text
```"""


FORMAT = Format(native.any_model, write, config, use)
