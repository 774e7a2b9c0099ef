"""Writes a run's best weights as a Hugging Face folder for PyTorch."""

import importlib.util
from pathlib import Path
from typing import Any

import jax

from jaxft.errors import UserError
from jaxft.export import card, heads
from jaxft.export.card import NO_FIELDS, CardFields
from jaxft.export.with_torch import TOLERANCE, check_answers, largest_difference, read_dev_split
from jaxft.hub.files import write_model_folder
from jaxft.hub.weights import save_weights
from jaxft.inference.model import open_model
from jaxft.io.files import write_json
from jaxft.io.stores import refuse_address
from jaxft.models.bert import config as bert_config
from jaxft.models.gpt2 import config as gpt2_config
from jaxft.models.registry import family_of
from jaxft.training.run_folder.workdir import Run, open_run


def export_run(
    run_folder: Path, output: Path, *, verify: bool = False, card_fields: CardFields = NO_FIELDS
) -> None:
    """Writes the folder `output` with weights, config.json, tokenizer and model card, either completely or not at all.

    If transformers' classes are not enough for the model, as with a CRF or several heads, the folder also contains the
    weights of its heads and a loader for torch (`heads.write_heads`).

    Args:
        run_folder: the workdir of a run.
        output: a folder that does not exist or is empty.
        verify: whether to compare with torch on dev before `output` appears.
        card_fields: what the model card says that no run records.

    Raises:
        UserError: there is no run, or `output` is not empty or cannot be written. With `verify`: torch is not
            installed, its logits differ by more than `TOLERANCE`, or the loader's answers differ.
    """
    if verify and importlib.util.find_spec("torch") is None:
        raise UserError("--verify needs torch, which is not installed: pip install torch, or leave it out")
    refuse_address(output, "--output", "write to a local folder, and copy it there")
    run = open_run(run_folder)
    # float32, because torch will compute in it.
    model = open_model(run, print, dtype="float32")
    parameters = model.task.to_transformers(jax.device_get(model.parameters))
    family = family_of(run.checkpoint.hf_config)
    if heads.needs_heads_only(run):
        parameters = {name: value for name, value in parameters.items() if name.startswith("backbone/")}
        config = family.config.make_backbone_config(run.checkpoint.hf_config)
    else:
        config = CONFIGS[run.config.task](run)
    tensors = save_weights(family.table, parameters)
    dev = read_dev_split(model) if verify else None

    def add_files(folder: Path) -> None:
        run.checkpoint.tokenizer.save_pretrained(folder)
        if model.task.predicts_tokens:
            write_json(
                folder / "generation_config.json",
                gpt2_config.make_generation_config(run.checkpoint.tokenizer),
            )
        if heads.needs_loader(run):
            heads.write_heads(model, folder)
        difference = None
        if dev is not None:
            difference = largest_difference(model, dev.windows, folder)
            print(
                f"largest difference of logits between jax and torch: {difference:.2e} "
                f"({len(dev.windows)} windows of dev, float32)"
            )
            if not difference <= TOLERANCE:
                raise UserError(
                    f"torch's logits differ from ours by {difference:.2e}, more than {TOLERANCE:.0e}: "
                    f"{output} was not written; please report this with the model's config.json"
                )
            if heads.needs_loader(run):
                check_answers(model, dev, folder, output)
        (folder / "README.md").write_text(
            card.write_card(run, model.net.parameter_count, difference, card_fields), encoding="utf-8"
        )

    write_model_folder(output, tensors, config, write_extras=add_files)
    labels = f"{len(run.labels)} labels, " if run.labels else ""
    print(f"{output}: {model.net.parameter_count:,} parameters, {labels}tokenizer, README.md")


def _token_classification_config(run: Run) -> dict[str, Any]:
    checkpoint = run.checkpoint
    return family_of(checkpoint.hf_config).config.make_token_classifier_config(
        checkpoint.hf_config, run.labels
    )


def _causal_lm_config(run: Run) -> dict[str, Any]:
    return gpt2_config.make_causal_lm_config(run.checkpoint.hf_config, run.checkpoint.hf_config["vocab_size"])


def _sequence_classification_config(run: Run) -> dict[str, Any]:
    hf_config = run.checkpoint.hf_config
    return family_of(hf_config).config.make_sequence_classifier_config(
        hf_config, run.labels, run.config.model.problem_type, run.tuned, run.checkpoint.tokenizer.pad_token_id
    )


def _question_answering_config(run: Run) -> dict[str, Any]:
    return bert_config.make_question_answering_config(run.checkpoint.hf_config, run.labels, run.tuned)


# Makes the config.json for transformers' class, by task. It is not used if `heads.needs_heads_only`.
CONFIGS = {
    "token_classification": _token_classification_config,
    "causal_lm": _causal_lm_config,
    "sequence_classification": _sequence_classification_config,
    "question_answering": _question_answering_config,
}
