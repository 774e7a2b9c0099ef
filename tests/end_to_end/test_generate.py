"""Text generation from checkpoints and runs: streams, stop strings, templates, and what is refused."""

import json

import pytest
import torch
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from jaxft.errors import UserError
from jaxft.generation.generator import Output
from jaxft.generation.options import GenerationOptions
from jaxft.inference.generate import EMPTY, generate_file, print_continuation
from jaxft.inference.writer import Generator, Writer, make_checkpoint_writer


@pytest.fixture(scope="module")
def writer(tiny_gpt2):
    return make_checkpoint_writer(str(tiny_gpt2))


FEW = GenerationOptions(max_new_tokens=4)
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
    assert list(writer.stream("", FEW)) == ["n", "é", "€", "a", "b"]
    assert list(writer.stream("", FEW, stop=["€ax"])) == ["n", "é", "€ab"]


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
    with pytest.raises(UserError, match="a stop string is empty"):
        next(writer.generate(["a"], GenerationOptions(), stop=[""]))
    with pytest.raises(UserError, match="only one text can be streamed"):
        next(writer.stream("a", GenerationOptions(temperature=1.0, samples=2)))
    with pytest.raises(UserError, match="prompt 2 has 60 tokens, which with --max_new_tokens 63"):
        list(writer.generate(["", "a" * 60], GenerationOptions(max_new_tokens=63)))


@pytest.fixture
def generate(writer, tmp_path):
    """Returns the records of the output, and the lines of the log."""

    def run(content: str, name: str = "in.jsonl", options: GenerationOptions = FEW, **settings):
        (tmp_path / name).write_text(content)
        logged, output = [], tmp_path / "out.jsonl"
        output.unlink(missing_ok=True)
        try:
            generate_file(
                writer, str(tmp_path / name), str(output), options, rows=2, log=logged.append, **settings
            )
        except UserError as error:
            logged.append(str(error))
            output = tmp_path / "out.jsonl.unfinished"
        lines = output.read_text().splitlines() if output.exists() else []
        return [json.loads(line) for line in lines], logged

    return run


def test_a_bad_prompt_costs_no_answer_before_it_and_can_be_recorded(generate):
    """The example: nine prompts, and one that is longer than the context."""
    prompts = [{"prompt": "the cat"}, {"prompt": "a"}, {"prompt": "and"}, {"prompt": "a" * 70}, {"text": 1}]
    prompts.append({"prompt": "hat", "id": 7})
    content = "".join(json.dumps(record) + "\n" for record in prompts)
    stopped, logged = generate(content)
    assert [record["prompt"] for record in stopped] == ["the cat", "a", "and"]
    assert (
        "in.jsonl, line 4: the prompt has 70 tokens, which with --max_new_tokens 4 is more than" in logged[-1]
    )
    recorded, logged = generate(content, on_error="record")
    assert recorded[:3] == stopped and [list(record) for record in recorded[3:]] == [
        ["prompt", "error"],
        ["text", "error"],
        ["prompt", "id", "generated"],
    ]
    assert "line 5: no key 'prompt' in ['text']" in recorded[4]["error"]
    assert logged[-1].startswith("6 prompts in ") and logged[-1].endswith(", 2 with an error")
    # A prompt's number counts those with errors, so its samples stay when another prompt is mended.
    drawn = GenerationOptions(max_new_tokens=8, temperature=1.0, seed=2)
    broken, _ = generate(content, options=drawn, on_error="record")
    mended, _ = generate(content.replace("a" * 70, "b"), options=drawn, on_error="record")
    assert broken[-1]["generated"] == mended[-1]["generated"]


def test_a_column_of_the_input_is_not_overwritten(generate):
    rows, logged = generate("prompt,generated\nthe cat,old\n", "in.csv")
    assert rows == [] and "in.csv, line 2: the key 'generated' is there already" in logged[-1]
    assert "rename or remove it" in logged[-1]
    assert "--format" not in logged[0]
    rows, logged = generate("id;prompt\n7;the cat\n", "in.csv")
    assert [list(row) for row in rows] == [["id", "prompt", "generated"]]
    assert "semicolons between values" in logged[0] and "--delimiter" in logged[0]


def test_an_empty_text_is_told(generate, writer, capsys):
    rows, _ = generate("the cat\n", "in.txt")
    first_character = rows[0]["generated"][0]
    rows, logged = generate("the cat\n\nthe cat\n", "in.txt", stop=[first_character])
    assert [row["generated"] for row in rows] == ["", ""]
    assert [line.rpartition("in.txt, ")[2] for line in logged if "text is empty" in line] == [
        f"line 1: {EMPTY}",
        f"line 3: {EMPTY}",
    ]
    logged = []
    print_continuation(writer, "the cat", FEW, stop=[first_character], log=logged.append)
    assert capsys.readouterr().out == "\n" and logged == [EMPTY]


def test_a_template_is_filled_and_what_is_too_long_shortened(tiny_gpt2, monkeypatch):
    made = {}

    def init(self, body, *, eos):
        made["eos"], self.max_positions = eos, 64

    monkeypatch.setattr(Generator, "__init__", init)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_gpt2)
    writer, options = (
        Writer(None, tokenizer, template="{article} =>{headline}", max_length=20),
        GenerationOptions,
    )
    assert made["eos"] == tokenizer.eos_token_id
    short, long = (
        writer.encode(prompt, options(max_new_tokens=10)) for prompt in ("the cat", {"article": "z" * 30})
    )
    assert tokenizer.decode(short) == "the cat =>"
    assert tokenizer.decode(long) == "z" * 7 + " =>" and len(long) == 10
    with pytest.raises(UserError, match="leaves no room for a prompt in the 20 positions"):
        writer.encode("the cat", options(max_new_tokens=20))
    with pytest.raises(UserError, match=r"in.jsonl, line 3: no key 'article' in \['text'\]"):
        writer.encode({"text": "x"}, options(max_new_tokens=10), where="in.jsonl, line 3")
    two = Writer(None, tokenizer, template="{question} {context} =>{answer}")
    with pytest.raises(UserError, match="fields question, context; give them as JSON lines"):
        two.encode("the cat", options(max_new_tokens=10))
    plain = Writer(None, tokenizer, start=[3])
    few = options(max_new_tokens=4)
    assert [plain.encode(prompt, few)[0] for prompt in ("the", "")] == [3, 3]
    assert Writer(None, tokenizer).encode("", few) == [tokenizer.bos_token_id]
