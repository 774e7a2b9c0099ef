"""Writes the tables of docs/hugging_face.md: which setting each argument of transformers becomes.

    python docs/hugging_face.py

Which setting follows from the settings' declarations. What differs, and why an argument has no setting, is written
here.
"""

import ast
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

from jaxft.training.settings import all_schemas

PAGE = Path(__file__).with_suffix(".md")
TASKS = {
    "run_ner.py": "token_classification",
    "run_glue.py": "sequence_classification",
    "run_classification.py": "sequence_classification",
    "run_qa.py": "question_answering",
    "run_clm.py": "causal_lm",
    "run_mlm.py": "masked_lm",
}
# The arguments of all scripts, and those of each, apart from `TrainingArguments`.
SHARED = (
    "model_name_or_path config_name tokenizer_name cache_dir model_revision token trust_remote_code "
    "dataset_name dataset_config_name train_file validation_file overwrite_cache max_train_samples "
    "max_eval_samples"
).split()
ARGUMENTS = {
    "run_ner.py": (
        "ignore_mismatched_sizes task_name test_file text_column_name label_column_name "
        "preprocessing_num_workers max_seq_length pad_to_max_length max_predict_samples label_all_tokens "
        "return_entity_level_metrics"
    ).split(),
    "run_glue.py": (
        "use_fast_tokenizer use_auth_token ignore_mismatched_sizes task_name test_file max_seq_length "
        "pad_to_max_length max_predict_samples"
    ).split(),
    "run_classification.py": (
        "use_fast_tokenizer ignore_mismatched_sizes test_file do_regression text_column_names "
        "text_column_delimiter label_column_name train_split_name validation_split_name test_split_name "
        "remove_splits remove_columns max_seq_length pad_to_max_length shuffle_train_dataset shuffle_seed"
        " max_predict_samples metric_name"
    ).split(),
    "run_qa.py": (
        "test_file preprocessing_num_workers max_seq_length pad_to_max_length max_predict_samples "
        "version_2_with_negative null_score_diff_threshold doc_stride n_best_size max_answer_length"
    ).split(),
    "run_clm.py": (
        "model_type config_overrides use_fast_tokenizer dtype streaming block_size "
        "preprocessing_num_workers validation_split_percentage keep_linebreaks"
    ).split(),
    "run_mlm.py": (
        "model_type config_overrides use_fast_tokenizer dtype streaming max_seq_length mlm_probability "
        "line_by_line pad_to_max_length preprocessing_num_workers validation_split_percentage"
    ).split(),
}
# What differs where an argument has a setting; by argument, or by argument and setting.
DIFFERENCES = {
    "adam_beta1": "the same default",
    "adam_beta2": "the same default",
    "adam_epsilon": "the same default",
    "bf16": "`auto`: bfloat16 on GPU and TPU; parameters stay float32",
    "block_size": "with `data.layout=blocks`; by default documents are packed and see only themselves",
    "config_overrides": (
        "with `model.checkpoint=new:gpt2` and `model.init=scratch`; encoders: [New models](models.md#new-models)"
    ),
    "dataset_name": "`hub:NAME:CONFIGURATION@REVISION/SPLIT`",
    "do_regression": "`model.problem_type=regression`; data types do not decide",
    "doc_stride": "the same meaning: tokens that windows share",
    "eval_steps": "by default once an epoch, always with a dev set",
    "fsdp": "a number of devices; -1: all",
    "full_determinism": "needed on GPU only",
    "gradient_accumulation_steps": "cuts the rows of a step into microbatches; does not multiply the batch",
    "gradient_checkpointing": "`dots` or `full`",
    "label_all_tokens": "`first`, `last` or `all`",
    "label_column_name data.columns": "by role: `tags=ner_tags`",
    "label_smoothing_factor": "the same default",
    "learning_rate": "the same default",
    "line_by_line": (
        "`documents` is yes and the default, and cuts longer lines into windows; `blocks` is no"
    ),
    "logging_steps": "20 instead of 500",
    "lr_scheduler_type": (
        "`linear`, `cosine`, `constant`, `polynomial` (which ends at 0), `inverse_sqrt`, `warmup_stable_decay`"
    ),
    "max_answer_length": "the same default",
    "max_grad_norm": "the same default",
    "max_seq_length": (
        "longer sentences, contexts and documents are read in windows; for texts with a label see "
        "`data.truncation`"
    ),
    "max_steps": "wins over epochs, as there",
    "metric_for_best_model": "any name in `eval/dev.json`; the direction follows from the metric",
    "mlm_probability": "the same default, as a number of tokens in each window that does not vary",
    "model_name_or_path": (
        "a folder, a hub id, `package:NAME/path`, `run:WORKDIR` or `new:gpt2`, of these [families](models.md)"
    ),
    "n_best_size": "the same default",
    "num_train_epochs": "the same default",
    "optim": (
        "`adamw`, `sgd`, `adafactor` (once `--adafactor`), `lion`, `muon`, `lamb`; names such as `adamw_torch` choose "
        "an implementation of the same rule"
    ),
    "overwrite_cache": (
        "cached text is found by content and settings, so it need not be overwritten; `off`: no cache"
    ),
    "per_device_eval_batch_size": "rows, over all devices",
    "per_device_train_batch_size": (
        "a total over devices and microbatches, 32 (8 documents) by default, so that results do not "
        "depend on devices"
    ),
    "report_to": "TensorBoard by default; Weights & Biases with `log.wandb=True`",
    "save_only_model": "removes the checkpoints at the end; until then the run can be resumed",
    "save_steps": "by default with each evaluation",
    "save_total_limit": "2 by default; the best weights are kept in addition",
    "seed": "0 instead of 42",
    "text_column_name data.columns": "by role: `tokens=words`",
    "text_column_names": "and `data.text_pair` for a second one",
    "train_file": "a file, or a pattern of files; many formats",
    "validation_split_percentage": "a share, 0.1 by default, for every task",
    "warmup_steps": "`100`, `10%`, `0.1`, `1 epoch` or `500 examples`",
    "weight_decay": "0.01 instead of 0.0; only matrices decay",
}
# What takes the place of a setting, or why there is none; by arguments.
WITHOUT_SETTING = {
    "cache_dir": "`HF_HOME` of the environment",
    "config_name tokenizer_name": (
        "those of the checkpoint; for a new model from them, a folder of config.json and tokenizer as "
        "`model.checkpoint`, with `model.init=scratch`"
    ),
    "dtype": "`model.dtype`",
    "dataset_config_name task_name": "part of the address: `hub:NAME:CONFIGURATION@REVISION/SPLIT`",
    "ignore_mismatched_sizes": "a head of other sizes is always replaced, and the log says so",
    "keep_linebreaks": "line breaks inside a document are kept; `data.documents=file` keeps all of a file",
    "max_train_samples max_eval_samples max_predict_samples": (
        "filters, `data.jsonl?fold=1`; slices of splits, `hub:NAME/train[:1000]`; or `train.steps`"
    ),
    "metric_name": "all metrics are measured; `eval.metric` selects the best weights",
    "model_type": "`model.checkpoint=new:gpt2` and `model.init=scratch`; encoders: [New models](models.md#new-models)",
    "null_score_diff_threshold version_2_with_negative": (
        "questions without an answer are recognised, and the threshold is tuned on dev"
    ),
    "pad_to_max_length": "rows are packed to `data.max_length`",
    "preprocessing_num_workers streaming": (
        "text is encoded once, into a file that is mapped into memory; processes share the work"
    ),
    "remove_columns remove_splits": "other keys and splits are not read",
    "return_entity_level_metrics": "always in `eval/dev.json`",
    "shuffle_seed shuffle_train_dataset data_seed": "always shuffled, by `seed`",
    "test_split_name train_split_name validation_split_name": "part of `hub:NAME/SPLIT`",
    "text_column_delimiter": "two texts: `data.text_pair`",
    "token use_auth_token hub_token": "`HF_TOKEN` of the environment",
    "trust_remote_code": "code of the hub is never run",
    "use_fast_tokenizer": "always the fast tokenizer",
    "output_dir": "`--workdir`",
    "resume_from_checkpoint ignore_data_skip restore_callback_states_from_checkpoint": (
        "the same command resumes, to the same bits"
    ),
    "do_train do_eval do_predict": (
        "a run trains and measures dev and test; `jaxft predict` and `jaxft evaluate` use it later"
    ),
    "eval_strategy eval_delay eval_on_start save_strategy logging_strategy logging_first_step": (
        "see `eval.every_steps`, `checkpoint.every_steps`, `log.every_steps`"
    ),
    "load_best_model_at_end": "the best weights are always kept, and used by all verbs",
    "greater_is_better": "follows from the metric",
    "optim_args": "`optim.momentum`, `optim.nesterov`, `optim.parameter_scale`, `optim.moments`",
    "optim_target_modules": "`optim.lr_multipliers` and `optim.freeze` choose parameters",
    "lr_scheduler_kwargs": "`optim.power`, `optim.cooldown`",
    "average_tokens_across_devices": "always: losses are divided once, by the whole batch's count",
    "fp16 fp16_full_eval bf16_full_eval tf32": (
        "`model.dtype`; float16 needs loss scaling, which jaxft has not"
    ),
    "activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing_kwargs": (
        "`model.remat`"
    ),
    "torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps": (
        "XLA compiles every step"
    ),
    "use_liger_kernel liger_kernel_config": "`model.attention`; the loss never holds all logits",
    "use_cache": "generation always caches",
    "neftune_noise_alpha": "not implemented",
    "auto_find_batch_size": "`jaxft plan` says what fits",
    "log_on_each_node log_level log_level_replica disable_tqdm logging_nan_inf_filter": (
        "process 0 logs; a loss that is not finite ends the run with exit code 3"
    ),
    "include_num_input_tokens_seen skip_memory_metrics": "always in `summary.json`",
    "trackio_space_id trackio_bucket_id trackio_static_space_id": "not implemented",
    (
        "prediction_loss_only eval_do_concat_batches eval_use_gather_object eval_accumulation_steps "
        "include_for_metrics batch_eval_metrics"
    ): "metrics are states that are merged batch by batch",
    "save_on_each_node enable_jit_checkpoint": "processes share a workdir; SIGTERM saves a checkpoint",
    "push_to_hub hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision": (
        "`jaxft export`, then `hf upload`"
    ),
    "use_cpu": "`JAX_PLATFORMS=cpu`",
    (
        "accelerator_config parallelism_config fsdp_config deepspeed ddp_find_unused_parameters "
        "ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout local_rank"
    ): "`mesh.data`, `mesh.fsdp`, `mesh.tensor`; `--coordinator` and the other flags of several processes",
    (
        "dataloader_drop_last dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers "
        "dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order"
    ): "a thread builds the next batches; `input stall` in the log says whether the device waits",
    "remove_unused_columns label_names": "the task knows which keys it reads",
    "train_sampling_strategy length_column_name": "windows are packed; `data.pack=False`: length buckets",
    "debug": "`--profile_steps`",
}


def settings_by_argument(task: str | None = None) -> dict[str, list[str]]:
    """Returns the settings that each argument becomes, of one task or of all."""
    settings: dict[str, list[str]] = {}
    for schema in all_schemas():
        for key, declaration in schema.declarations.items() if task in (None, schema.task) else ():
            for name in re.findall(r"(?:^|, )(\w+)", declaration.hf):  # without the factors of a product
                if key not in settings.setdefault(name, []):
                    settings[name].append(key)
    return settings


def explain(argument: str) -> str:
    """Returns what takes the place of a setting for an argument. Raises `KeyError` if nothing is written about it."""
    for names, text in WITHOUT_SETTING.items():
        if argument in names.split():
            return text
    raise KeyError(f"{argument}: write in WITHOUT_SETTING why it has no setting")


def table(arguments: list[str], settings: dict[str, list[str]]) -> str:
    """Returns a table: arguments, their settings, what differs. Arguments with the same explanation share a row."""
    rows = ["| argument | setting | what differs |", "| --- | --- | --- |"]
    others: dict[str, list[str]] = {}
    for argument in arguments:
        if keys := settings.get(argument):
            difference = DIFFERENCES.get(f"{argument} {keys[0]}", DIFFERENCES.get(argument, ""))
            rows.append(f"| `{argument}` | {', '.join(f'`{key}`' for key in keys)} | {difference} |")
        else:
            others.setdefault(explain(argument), []).append(argument)
    rows += [f"| {', '.join(f'`{name}`' for name in names)} | | {text} |" for text, names in others.items()]
    return "\n".join(rows)


def training_arguments() -> list[str]:
    """Returns the names of the fields of `TrainingArguments`, from its source: importing it takes seconds."""
    spec = importlib.util.find_spec("transformers")
    assert spec and spec.submodule_search_locations
    source = (Path(spec.submodule_search_locations[0]) / "training_args.py").read_text()
    classes = {node.name: node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    names = [
        node.target.id
        for node in classes["TrainingArguments"]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]
    return [name for name in names if not name.startswith("_")]


def make_table(name: str) -> str:
    """Returns the table called `name`: a script, `TrainingArguments`, "all scripts" or "others"."""
    if name == "all scripts":
        return table(SHARED, settings_by_argument("token_classification"))
    if name in TASKS:
        return table(ARGUMENTS[name], settings_by_argument(TASKS[name]))
    if name == "TrainingArguments":
        return table(training_arguments(), settings_by_argument())
    known = {*SHARED, *training_arguments(), *(name for names in ARGUMENTS.values() for name in names)}
    settings = settings_by_argument()
    return table([name for name in settings if name not in known], settings)


def fill(text: str, make: Callable[[str], str] = make_table) -> str:
    """Returns the text of the page with its tables, which stand between comments, made anew."""
    return re.sub(
        r"<!-- table: ([\w. ]+) -->.*?<!-- end -->",
        lambda match: f"<!-- table: {match[1]} -->\n\n{make(match[1])}\n\n<!-- end -->",
        text,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text()))
