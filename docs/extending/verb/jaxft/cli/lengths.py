"""Defines the verb `lengths`: tells how long a run's texts are, to choose `config.data.max_length`."""

import argparse

from jaxft.cli.command import check_overrides, log_to_stderr
from jaxft.cli.flags import add_config_flag, make_parser
from jaxft.errors import exit_on_user_error
from jaxft.training.settings import load_settings

PERCENTAGES = (50, 90, 99, 100)


def lengths_parser() -> argparse.ArgumentParser:
    """Returns the parser of the flags of `lengths`."""
    parser = make_parser(
        "lengths",
        "Tells how many tokens the training texts have.",
        "Any setting: --config.data.max_length=64",
    )
    add_config_flag(parser)
    return parser


def lengths(argv: list[str] | None = None) -> None:
    """Prints the lengths of the training texts of the run that the arguments name."""
    flags, overrides = lengths_parser().parse_known_args(argv)
    # Slow imports come after --help has been answered.
    import numpy as np

    from jaxft.parallel.mesh import make_mesh
    from jaxft.training.prepare import prepare_data

    with exit_on_user_error():
        check_overrides(overrides)
        config = load_settings(flags.config, overrides)
        windows = prepare_data(config, make_mesh(config), log_to_stderr).windows[0]
    print(f"{config.data.train}: {len(windows):,} windows, cut at {config.data.max_length} tokens")
    for percentage in PERCENTAGES:
        length = np.percentile(windows.lengths, percentage, method="higher")
        print(f"{percentage:>4}% have at most {length:,} tokens")
