"""Text generation from checkpoints and runs: streams, stop strings, templates, and what is refused."""

import json

import pytest
import torch
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from jaxft.errors import UserError
from jaxft.generation.generator import Output
from jaxft.generation.options import GenerationOptions
from jaxft.inference.writer import Generator, Writer, make_checkpoint_writer, read_prompts


@pytest.fixture(scope="module")
def writer(tiny_gpt2):
    return make_checkpoint_writer(str(tiny_gpt2))


PROMPTS = ["the cat", "a", "and thé hat"]


def theirs(tiny_gpt2, prompt, **options) -> str:
    model = GPT2LMHeadModel.from_pretrained(tiny_gpt2).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_gpt2)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    output_ids = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        pad_token_id=0,
        do_sample=False,
        tokenizer=tokenizer,
        **options,
    )
    return tokenizer.decode(output_ids[0, ids.shape[1] :], skip_special_tokens=True)


def test_a_checkpoint_continues_text_as_torch_does_by_the_batch_and_streamed(tiny_gpt2, writer):
    options = GenerationOptions(max_new_tokens=30, no_repeat_ngram=2)
    texts = [text for [text] in writer.generate(PROMPTS, options, rows=2)]
    expected = [theirs(tiny_gpt2, p, max_new_tokens=30, no_repeat_ngram_size=2) for p in PROMPTS]
    assert [text.text for text in texts] == expected
    for prompt, text in zip(PROMPTS, expected, strict=True):
        pieces = list(writer.stream(prompt, options))
        assert "".join(pieces) == text and len(pieces) > 5


def test_streaming_waits_for_whole_characters_and_for_what_may_be_a_stop(writer, monkeypatch):
    ids = writer.tokenizer("né€ab")["input_ids"]
    assert len(ids) == 8

    def stream(prompts, options, *, stop):
        for count in range(1, len(ids) + 1):
            yield [[Output(ids[:count], False)]]

    monkeypatch.setattr(writer._generator, "stream", stream)
    assert list(writer.stream("", GenerationOptions())) == ["n", "é", "€", "a", "b"]
    assert list(writer.stream("", GenerationOptions(), stop=["€ax"])) == ["n", "é", "€ab"]


def test_text_ends_before_a_stop_string_wherever_the_tokens_lie(tiny_gpt2, writer):
    options = GenerationOptions(max_new_tokens=30, no_repeat_ngram=2)
    [[plain]] = writer.generate(PROMPTS[:1], options)
    stop = plain.text[7:10]  # of several tokens
    [[text]] = writer.generate(PROMPTS[:1], options, stop=["not there", stop])
    assert text.ended and text.text == plain.text[: plain.text.index(stop)]
    with_stop = theirs(tiny_gpt2, PROMPTS[0], max_new_tokens=30, no_repeat_ngram_size=2, stop_strings=[stop])
    assert with_stop.startswith(text.text + stop)
    assert "".join(writer.stream(PROMPTS[0], options, stop=[stop])) == text.text


def test_a_stop_string_cuts_the_best_beams(writer):
    options = GenerationOptions(max_new_tokens=20, beams=3, samples=2, no_repeat_ngram=2)
    [plain] = writer.generate(PROMPTS[:1], options)
    stop = plain[0].text[5:7]
    [cut] = writer.generate(PROMPTS[:1], options, stop=[stop])
    assert [beam.text for beam in cut] == [beam.text.partition(stop)[0] for beam in plain]


def test_samples_do_not_depend_on_the_size_of_batches(writer):
    options = GenerationOptions(max_new_tokens=8, temperature=1.0, samples=2, seed=3)
    texts, others = (list(writer.generate(PROMPTS, options, rows=rows)) for rows in (3, 2))
    assert texts == others
    assert len({sample.text for samples in texts for sample in samples}) == 6


def test_the_command_answers_a_prompt_and_files_and_repeats_itself(tiny_gpt2, command, tmp_path):
    flags = ["--checkpoint", tiny_gpt2, "--max-new-tokens", "12", "--temperature", "0.8", "--seed", "5"]
    first, second = (command("generate", *flags, "--prompt", "the cat", cold=cold) for cold in (True, False))
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout and first.stdout.strip()
    (tmp_path / "in.jsonl").write_text('{"prompt": "the cat", "id": 7}\n{"prompt": "", "id": 8}\n')
    done = command("generate", *flags, "--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["id"], row["prompt"]) for row in rows] == [(7, "the cat"), (8, "")]
    assert rows[0]["generated"] + "\n" == first.stdout
    stop = first.stdout.strip()[3:5]
    several = command("generate", *flags, "--prompt", "the cat", "--samples", "2", "--stop", stop)
    first_sample, second_sample = several.stdout.split("\n----\n")
    assert first_sample == first.stdout[: first.stdout.index(stop)].rstrip("\n") and stop not in second_sample


def test_what_the_command_cannot_do_is_said_in_a_line(tiny_gpt2, writer, command, finished_run, tmp_path):
    refused = command("generate", "--run", finished_run, "--prompt", "x")
    assert refused.returncode == 2 and "token_classification; only language models" in refused.stderr
    assert "Traceback" not in refused.stderr
    (tmp_path / "one.jsonl").touch()
    for name, message in {"nix.txt": "no such file", "*.jsonl": "a pattern, of 1 files"}.items():
        refused = command("generate", "--checkpoint", tiny_gpt2, "--input", tmp_path / name)
        assert refused.returncode == 2 and message in refused.stderr and "Traceback" not in refused.stderr
    (tmp_path / "in.jsonl").write_text('{"prompt": "x"}\n{"text": "y"}\n')
    with pytest.raises(UserError, match=r"in.jsonl, line 2: no key 'prompt' in \['text'\]"):
        list(read_prompts(str(tmp_path / "in.jsonl"), writer))
    with pytest.raises(UserError, match="a stop string is empty"):
        next(writer.generate(["a"], GenerationOptions(), stop=[""]))
    with pytest.raises(UserError, match="only one text can be streamed"):
        next(writer.stream("a", GenerationOptions(temperature=1.0, samples=2)))
    with pytest.raises(UserError, match="prompt 1 has 60 tokens"):
        next(writer.generate(["a" * 60], GenerationOptions()))


def test_a_template_is_filled_and_what_is_too_long_shortened(tiny_gpt2, monkeypatch):
    made = {}

    def init(self, body, *, eos):
        made["eos"], self.max_positions = eos, 64

    monkeypatch.setattr(Generator, "__init__", init)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_gpt2)
    writer = Writer(None, tokenizer, template="{article} =>{headline}", max_length=20)
    assert made["eos"] == tokenizer.eos_token_id
    short, long = writer.encode(["the cat", {"article": "z" * 30}], GenerationOptions(max_new_tokens=10))
    assert tokenizer.decode(short) == "the cat =>"
    assert tokenizer.decode(long) == "z" * 7 + " =>" and len(long) == 10
    with pytest.raises(UserError, match="leaves no room for a prompt in the 20 positions"):
        writer.encode(["the cat"], GenerationOptions(max_new_tokens=20))
    with pytest.raises(UserError, match=r"prompt 1: no key 'article' in \['text'\]"):
        writer.encode([{"text": "x"}], GenerationOptions(max_new_tokens=10))
    two = Writer(None, tokenizer, template="{question} {context} =>{answer}")
    with pytest.raises(UserError, match="fields question, context; give them as JSON lines"):
        two.encode(["the cat"], GenerationOptions())
    plain = Writer(None, tokenizer, start=[3])
    assert [plain.encode([p], GenerationOptions())[0][0] for p in ("the", "")] == [3, 3]
    assert Writer(None, tokenizer).encode([""], GenerationOptions()) == [[tokenizer.bos_token_id]]
