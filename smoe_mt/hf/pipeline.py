"""The pipeline "translation", which transformers had until its version 5."""

from __future__ import annotations

from typing import Any

import transformers
from transformers import AutoModelForSeq2SeqLM, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

TASK = "translation"


class TranslationPipeline(Pipeline):
    """Text -> [{"translation_text": ...}].

    >>> pipeline("translation", model="nordic-hf", src_lang="sv", tgt_lang="fi")("God morgon.")
    """

    _load_tokenizer = True

    def _sanitize_parameters(
        self, src_lang: str | None = None, tgt_lang: str | None = None, **generate_kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        languages = {"src_lang": src_lang, "tgt_lang": tgt_lang}
        return {name: value for name, value in languages.items() if value is not None}, generate_kwargs, {}

    def preprocess(self, text: str, src_lang: str | None = None, tgt_lang: str | None = None) -> Any:
        """Token ids of one text."""
        return self.tokenizer._build_translation_inputs(
            text, return_tensors="pt", src_lang=src_lang, tgt_lang=tgt_lang, truncation=True
        )

    def _forward(self, inputs: Any, **generate_kwargs: Any) -> dict[str, Any]:
        found = self.model.generate(**inputs, **generate_kwargs)
        sentences = inputs["input_ids"].size(0)
        return {"output_ids": found.view(sentences, -1, found.size(1))}

    def postprocess(self, outputs: dict[str, Any]) -> list[dict[str, str]]:
        """The texts of one sentence's candidates."""
        texts = self.tokenizer.batch_decode(outputs["output_ids"][0], skip_special_tokens=True)
        return [{"translation_text": text} for text in texts]


def add_to_pipelines() -> None:
    """Make it known as "translation"; a transformers that has a pipeline of that name keeps its own."""
    if TASK in PIPELINE_REGISTRY.get_supported_tasks():
        return
    getattr(transformers.pipelines, "REMOVED_TASKS", {}).pop(
        TASK, None
    )  # else the name is refused before it is looked up
    PIPELINE_REGISTRY.register_pipeline(TASK, TranslationPipeline, pt_model=AutoModelForSeq2SeqLM)
