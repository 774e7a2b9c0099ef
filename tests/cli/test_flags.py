"""Flags may be written with hyphens or underscores, and unknown ones are answered with the nearest."""

import pytest

from jaxft.cli.use import evaluate_parser, generate_parser, predict_parser


@pytest.mark.parametrize("text", ["--{0}=7", "--{0} 7"])
@pytest.mark.parametrize("spelling", ["word_column", "word-column"])
def test_flags_have_hyphens_or_underscores(text, spelling):
    flags = predict_parser().parse_args(["--run", "a-b_c", *text.format(spelling).split()])
    assert flags.word_column == 7 and flags.run == "a-b_c"


def test_values_and_unknown_flags_stay_as_they_are():
    flags, unknown = generate_parser().parse_known_args(
        ["--run=x", "--prompt=--top-p", "--top-p=0.5", "--no-such=--top-p", "--stop", "top-p"]
    )
    assert flags.prompt == "--top-p" and flags.top_p == 0.5 and flags.stop == ["top-p"]
    assert unknown == ["--no-such=--top-p"]


def test_the_nearest_flag_is_found():
    parser = evaluate_parser()
    assert parser.near_flags("--word-colum=1") == ["--word_column"]
    assert parser.near_flags("--qqqq") == []
