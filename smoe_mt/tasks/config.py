"""What can be set for the task: from flags (`--sampling-temperature 5`) or Hydra (`task.sampling_temperature=5`)."""

# ruff: noqa: UP045
from dataclasses import dataclass, field
from typing import Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II

from smoe_mt.allowed.config import check_values
from smoe_mt.allowed.keys import KEYS
from smoe_mt.bleu_tokenizers import AUTO, check_tokenizer
from smoe_mt.errors import UserError


# fairseq reads these annotations to make flags: they must be types, not strings (no `from __future__ import annotations`), and
# it knows Optional[str] but not `str | None`.
@dataclass
class ManyToManyTranslationConfig(FairseqDataclass):
    """Options of the task `many_to_many_translation`."""

    data: Optional[str] = field(default=None, metadata={"help": "data folder made by `smoe-mt prepare`"})
    verify: bool = field(
        default=False,
        metadata={
            "help": "read all of the data folder and compare it with its checksums, also files that were verified before; "
            "without this, a file is read when it is first used, and again when it has changed"
        },
    )
    directions: Optional[str] = field(
        default=None,
        metadata={"help": "directions to use, separated by commas (nso-en,en-nso); default: all of the data folder"},
    )
    source_lang: Optional[str] = field(
        default=None,
        metadata={"help": "with --target-lang: use this one direction only", "argparse_alias": "-s"},
    )
    target_lang: Optional[str] = field(
        default=None,
        metadata={"help": "with --source-lang: use this one direction only", "argparse_alias": "-t"},
    )
    sampling_temperature: float = field(
        default=1.0,
        metadata={"help": "T: a direction of n sentences is drawn with p ~ n^(1/T); 1 = by size, 5 = nearly uniform"},
    )
    epoch_pairs: int = field(
        default=0,
        metadata={"help": "sentence pairs drawn per epoch; 0 = as many as there are over all directions"},
    )
    tokens_per_update: int = field(
        default=0,
        metadata={
            "help": "target number of tokens an update, over all ranks: sets --update-freq from --max-tokens and the ranks; "
            "0 = leave --update-freq as it is"
        },
    )
    batch_shapes: int = field(
        default=0,
        metadata={
            "help": "pad training batches to at most N shapes (rows x source x target), chosen by the lengths of the text; "
            "0 = each batch to its longest sentences"
        },
    )
    cuda_graphs: ChoiceEnum(["off", "on", "auto"]) = field(  # type: ignore[valid-type]
        default="off",
        metadata={
            "help": "on a GPU, with --batch-shapes: capture forward and backward of each shape as a CUDA graph; auto: where it "
            "can be done"
        },
    )
    expert_parallel_size: int = field(
        default=1,
        metadata={
            "help": "expert-parallel group size N: each rank holds 1/N of every block's experts; 1 = no expert parallelism. "
            "Start the ranks with torchrun; they must be a multiple of this"
        },
    )
    expert_parallel_chunks: int = field(
        default=1,
        metadata={
            "help": "with --expert-parallel-size, in training: split the all-to-all into N chunks and overlap it with the "
            "computation of the experts; 1 = no overlap"
        },
    )
    max_nonfinite_updates: int = field(
        default=10,
        metadata={
            "help": "updates whose loss or gradient is not finite are skipped; N in a row end the run; 0 = never"
        },
    )
    sharded_checkpoints: bool = field(
        default=False,
        metadata={"help": "for large models: all ranks write the tensors of a checkpoint to a folder next to its file"},
    )
    max_source_positions: int = field(
        default=1024,
        metadata={"help": "longest source in tokens, tag and </s> included; longer ones are not trained on"},
    )
    max_target_positions: int = field(
        default=1024, metadata={"help": "longest target in tokens, </s> included; longer ones are not trained on"}
    )
    eval_bleu: bool = field(
        default=False,
        metadata={
            "help": "translate in validation and log sacreBLEU: `bleu` (mean) and `bleu/nso-en` of each direction"
        },
    )
    eval_bleu_sentences: int = field(
        default=100, metadata={"help": "sentences to translate per direction in validation (the first ones); 0 = all"}
    )
    eval_bleu_beam: int = field(default=1, metadata={"help": "beam size in validation"})
    eval_bleu_max_len_a: float = field(
        default=1.3,
        metadata={
            "help": "in validation, outputs end at a*x + b tokens for a source of x, since an early model never stops"
        },
    )
    eval_bleu_max_len_b: int = field(default=10, metadata={"help": "see --eval-bleu-max-len-a"})
    eval_bleu_tokenizer: str = field(
        default=AUTO,
        metadata={"help": "sacreBLEU's tokenizer in validation, such as 13a or char; auto: the target language's"},
    )

    mlflow_experiment: Optional[str] = field(
        default=None,
        metadata={
            "help": "experiment of MLflow that the training is a run of (needs the extra mlflow); MLFLOW_TRACKING_URI says where"
        },
    )

    # Taken from fairseq's own options.
    seed: int = II("common.seed")
    train_subset: str = II("dataset.train_subset")

    def check(self) -> None:
        """UserError for values that make no sense."""
        if not self.data:
            raise UserError("no data folder: give the folder made by `smoe-mt prepare` (task.data with Hydra)")
        check_values("task", {name: value for name, value in vars(self).items() if f"task.{name}" in KEYS})
        check_tokenizer(self.eval_bleu_tokenizer)
        if (self.source_lang is None) != (self.target_lang is None):
            raise UserError("--source-lang and --target-lang choose one direction together: give both or neither")
