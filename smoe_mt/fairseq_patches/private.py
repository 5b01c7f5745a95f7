"""Parts of libraries that are no public interface, used elsewhere in smoe_mt at their own time."""

from smoe_mt.fairseq_patches.patch import PrivateUse

PRIVATE_USES = (
    PrivateUse(
        "fairseq.distributed.utils.get_global_group",
        "smoe_mt.training.launch_ranks",
        "its attribute _global_group is the group of all ranks, ours with a time limit",
    ),
    PrivateUse(
        "fairseq.trainer.Trainer.train_step.__wrapped__",
        "smoe_mt.training.trainer",
        "an update without its scope of metrics, which an exception would leave open",
    ),
    PrivateUse(
        "fairseq.checkpoint_utils.save_checkpoint",
        "smoe_mt.training.jobs",
        "its attribute best is the best score of a job before",
    ),
    PrivateUse(
        "fairseq_cli.train.should_stop_early",
        "smoe_mt.training.jobs",
        "its attributes best and num_runs are those of a job before",
    ),
    PrivateUse(
        "fairseq.logging.progress_bar._tensorboard_writers",
        "smoe_mt.training.jobs",
        "writers by the name of a subset, also those of a job before",
    ),
    PrivateUse(
        "fairseq.modules.transformer_layer.TransformerEncoderLayerBase.build_fc1",
        "smoe_mt.models.layers",
        "the layer's FFN half (fc1, fc2, final_layer_norm) is emptied, a block does its work",
    ),
    PrivateUse(
        "torch.optim.Optimizer.add_param_group",
        "smoe_mt.training.compiler",
        "what torch wraps in this and other methods of optimisers runs without the wrapping, which loads its compiler",
    ),
    PrivateUse(
        "torch.distributed.checkpoint.HuggingFaceStorageReader.read_metadata",
        "smoe_mt.checkpoints.sharded",
        "fs and read_metadata of a reader: only the files that a checkpoint names are read",
    ),
)

#: What importing smoe_mt.hf changes; nothing else in smoe_mt imports transformers.
IN_TRANSFORMERS = (
    PrivateUse(
        "transformers.utils.is_torchaudio_available",
        "smoe_mt.hf.audio",
        "says no where torchaudio cannot be imported: fairseq brings one that is often made for another torch",
    ),
    PrivateUse(
        "transformers.pipelines.REMOVED_TASKS",
        "smoe_mt.hf.pipeline",
        'has no "translation" any more, so that our pipeline of that name is found',
    ),
)
