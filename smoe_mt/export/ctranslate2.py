"""A folder for CTranslate2 (``--format ctranslate2``): a dense model, by CTranslate2's own converter for fairseq's modules."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from smoe_mt.checkpoints.names import CONFIG, CTRANSLATE2_VOCABULARY, CTRANSLATE2_WEIGHTS, RECORD
from smoe_mt.devices import DTYPES
from smoe_mt.errors import UserError
from smoe_mt.export.card import languages_of
from smoe_mt.export.folder import Format, Record
from smoe_mt.export.native import copy_vocabulary
from smoe_mt.generation.checkpoint import LoadedModel
from smoe_mt.json_files import read_json_object
from smoe_mt.moe.registry import DENSE

SPM = "spm.model"
PAD = "<blank>"  # what CTranslate2 calls it
#: fairseq's activation -> CTranslate2's.
ACTIVATIONS = {"relu": "RELU", "gelu": "GELU", "gelu_accurate": "GELUTanh", "gelu_fast": "GELUTanh", "tanh": "Tanh"}


def check(loaded: LoadedModel) -> None:
    """UserError for a model that it cannot hold, and where it is not installed."""
    moe = str(loaded.config.model.moe)
    if moe != DENSE:
        raise UserError(
            f"{loaded.checkpoint}: CTranslate2 has no experts, and this model is a {moe} one; export it with --format huggingface, "
            "or serve it with `smoe-mt serve`"
        )
    if (activation := str(loaded.config.model.activation_fn)) not in ACTIVATIONS:
        raise UserError(
            f"{loaded.checkpoint}: CTranslate2 has no activation {activation}; export it with --format huggingface, or serve it with "
            "`smoe-mt serve`"
        )
    library()


def write(loaded: LoadedModel, folder: Path, dtype: str) -> Sequence[str]:
    """The converted weights and vocabulary, and the SentencePiece model."""
    convert(loaded.model, loaded.task.dictionary.symbols, folder, DTYPES.get(dtype, dtype))
    copy_vocabulary(loaded, folder, (SPM,))
    return (CTRANSLATE2_WEIGHTS, CTRANSLATE2_VOCABULARY, SPM)


def convert(model: Any, symbols: Sequence[str], folder: Path, quantization: str) -> None:
    """Write a dense model with this vocabulary into `folder`, which is there; `quantization`: float32, int8, ...

    Raises UserError where CTranslate2 is not installed.
    """
    converters = library()

    class _Converter(converters.Converter):  # type: ignore[name-defined, misc]
        def _load(self) -> Any:
            return specification(model, symbols)

    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        made = Path(_Converter().convert(str(Path(temporary) / "model"), quantization=quantization))
        for path in made.iterdir():
            shutil.move(path, folder / path.name)


def library() -> Any:
    """CTranslate2's converters. UserError where it is not installed."""
    try:
        from ctranslate2 import converters
    except ImportError as error:
        raise UserError("CTranslate2 is not installed: pip install 'smoe_mt[ctranslate2]'") from error
    return converters


def specification(model: Any, symbols: Sequence[str]) -> Any:
    """CTranslate2's description of a dense model, with its weights."""
    from ctranslate2.converters import fairseq as parts
    from ctranslate2.specs import common_spec, transformer_spec

    cfg = model.cfg
    activation = common_spec.Activation[ACTIVATIONS[str(cfg.activation_fn)]]
    kind = {"pre_norm": True, "activation": activation}
    spec = transformer_spec.TransformerSpec(
        transformer_spec.TransformerEncoderSpec(cfg.encoder.layers, cfg.encoder.attention_heads, **kind),
        transformer_spec.TransformerDecoderSpec(cfg.decoder.layers, cfg.decoder.attention_heads, **kind),
    )
    with torch.no_grad():
        parts.set_transformer_encoder(spec.encoder, model.encoder)
        parts.set_transformer_decoder(spec.decoder, model.decoder)
    names = [PAD if symbol == "<pad>" else symbol for symbol in symbols]
    spec.register_source_vocabulary(names)
    spec.register_target_vocabulary(names)
    spec.config.decoder_start_token = spec.config.eos_token
    spec.config.add_source_eos = True
    return spec


def config(loaded: LoadedModel, folder: Path, record: Record) -> Record:
    """CTranslate2's own, with the record in it."""
    return {**read_json_object(folder / CONFIG), RECORD: record}


def use(record: Record) -> str:
    """With CTranslate2 and SentencePiece."""
    target = record["directions"][0].split("-")[1]
    return f"""The first token of a source, `<2{target}>`, asks for the target language. smoe_mt is not needed:

```python
import unicodedata

import ctranslate2
import sentencepiece

folder = "."  # the path of this folder
tags = {{f"<2{{language}}>" for language in {languages_of(record)}}}
pieces = sentencepiece.SentencePieceProcessor(model_file=f"{{folder}}/{SPM}")
translator = ctranslate2.Translator(folder)


def clean(text):
    return unicodedata.normalize("NFC", " ".join(text.split()))


def translate(lines, target):
    sources = [[f"<2{{target}}>", *pieces.encode(clean(line), out_type=str)] for line in lines]
    found = translator.translate_batch(
        sources,
        beam_size=5,
        length_penalty=1.0,
        max_decoding_length=2 * (max(map(len, sources)) + 1) + 10,
        suppress_sequences=[["{PAD}"]],
    )
    outputs = [[piece for piece in each.hypotheses[0] if piece not in tags] for each in found]
    return [clean(pieces.decode_pieces(output)) for output in outputs]


print(translate(["..."], "{target}"))
```

These are the settings of `smoe-mt translate`. What may differ from it: outputs that end at the length limit, which here is that of
the longest sentence of a call; outputs whose scores are nearly equal; and the scores, which CTranslate2 computes without the tokens that
must not come (padding, an end at once)."""


FORMAT = Format(check, write, config, use)
