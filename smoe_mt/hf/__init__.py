"""Models of smoe_mt in transformers: importing this makes folders of ``smoe-mt export --format huggingface`` known to it.

>>> import smoe_mt.hf
>>> from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
>>> model, tokenizer = (auto.from_pretrained("nordic-hf") for auto in (AutoModelForSeq2SeqLM, AutoTokenizer))

Needs the extra ``hf`` (transformers 5).
"""

from __future__ import annotations

from smoe_mt.errors import UserError
from smoe_mt.registration import register

try:
    import transformers
except ImportError as error:
    raise ImportError("smoe_mt.hf needs transformers: pip install 'smoe_mt[hf]'") from error
if int(transformers.__version__.partition(".")[0]) < 5:
    raise UserError(
        f"smoe_mt.hf needs transformers 5, and this is {transformers.__version__}: pip install 'smoe_mt[hf]'"
    )

register()

from smoe_mt.hf.audio import leave_out_broken_torchaudio

leave_out_broken_torchaudio()

from smoe_mt.hf.configuration import SMoEConfig
from smoe_mt.hf.modeling import SMoEForConditionalGeneration
from smoe_mt.hf.pipeline import TranslationPipeline, add_to_pipelines
from smoe_mt.hf.tokenization import SMoETokenizer

__all__ = ["SMoEConfig", "SMoEForConditionalGeneration", "SMoETokenizer", "TranslationPipeline"]

transformers.AutoConfig.register(SMoEConfig.model_type, SMoEConfig)
transformers.AutoTokenizer.register(SMoEConfig, SMoETokenizer)
transformers.AutoModelForSeq2SeqLM.register(SMoEConfig, SMoEForConditionalGeneration)
add_to_pipelines()
