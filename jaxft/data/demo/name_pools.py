"""Distributes the names of the gazetteers over the splits of the synthetic corpora `demo:ner` and `demo:qa`."""

import functools
import random

from jaxft.data.demo import gazetteers

SEED = 20240611  # the random seed of `demo:ner`

_SPLITS = ("train", "dev", "test")
_DEAL_CYCLE = ("train", "dev", "train", "test", "train")


def deal_split(index: int) -> str:
    """Returns the split of the item at an index: 60% of items go to train, 20% each to dev and test."""
    return _DEAL_CYCLE[index % len(_DEAL_CYCLE)]


@functools.cache
def deal_names() -> dict[str, dict[str, list[str]]]:
    """Assigns every name to one split; see `deal_split`.

    A name in several lists goes to the same split in all of them.

    Returns:
      Split -> pool -> names. Pool `KIND` has the names with only this meaning, pool `KIND+` the ambiguous names.
    """
    kinds = {
        kind: gazetteers.split_names(text)
        for kind, text in {
            "last": gazetteers.LAST,
            "city": gazetteers.CITY,
            "place": gazetteers.PLACE,
            "district": gazetteers.DISTRICT,
            "company": gazetteers.COMPANY,
            "club": gazetteers.CLUB,
            "subject": gazetteers.SUBJECT,
            "party": gazetteers.PARTY,
            "paper": gazetteers.PAPER,
            "event": gazetteers.EVENT,
            "head": gazetteers.WORK_HEAD,
            "product": gazetteers.PRODUCT,
        }.items()
    }
    adjectives = dict(pair.split() for pair in gazetteers.split_names(gazetteers.COUNTRY))
    kinds["country"] = list(adjectives)
    kinds["acronym"] = _make_acronyms()

    uses: dict[str, set[str]] = {}  # kinds of each name, in lower case
    for kind, members in kinds.items():
        for name in members:
            uses.setdefault(name.lower(), set()).add(kind)
    first_names = {name.lower() for name in gazetteers.split_names(gazetteers.FIRST)}
    for name in uses:
        if name in first_names:
            uses[name].add("first")

    rng = random.Random(f"{SEED}/names")
    split_of = {}
    for ambiguous in (False, True):
        # Names are dealt kind by kind, so that each split gets its share of each kind.
        for kind in kinds:
            undealt = [
                name
                for name, name_kinds in uses.items()
                if kind in name_kinds and (len(name_kinds) > 1) == ambiguous and name not in split_of
            ]
            rng.shuffle(undealt)
            for index, name in enumerate(undealt):
                split_of[name] = deal_split(index)

    pools: dict[str, dict[str, list[str]]] = {split: {} for split in _SPLITS}
    for kind, members in kinds.items():
        for split, pool in pools.items():
            dealt = [name for name in members if split_of[name.lower()] == split]
            pool[kind] = [name for name in dealt if len(uses[name.lower()]) == 1]
            pool[kind + "+"] = [name for name in dealt if len(uses[name.lower()]) > 1]
            if kind == "country":
                pool["demonym"] = [adjectives[name] for name in dealt]
    return pools


def _make_acronyms() -> list[str]:
    rng = random.Random(f"{SEED}/acronyms")
    acronyms: dict[str, None] = {}  # a dict keeps the order
    while len(acronyms) < 80:
        length = rng.choice((3, 4, 4, 5))
        acronyms["".join(rng.choice("ABCDEFGHILMNOPRSTUW") for _ in range(length))] = None
    return list(acronyms)
