"""Generates `demo:sentiment` (short reviews) and `demo:intent` (requests to a bank): synthetic texts with labels."""

import hashlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence

from jaxft.data.sources.records.record_values import Record
from jaxft.errors import UserError

SIZES = {"train": 3000, "dev": 400, "test": 400}  # texts

_SEED = 20241105
_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")

# Slot -> its values.
WORDS = {
    "thing": "phone,film,book,hotel,meal,lamp,coat,app,train ride,concert,course,sofa,camera,garden tour,bike",
    "part": "sound,price,story,staff,colour,battery,view,ending,service,manual,design,handling,delivery,music",
    "good": "great,lovely,splendid,clever,charming,solid,excellent,delightful,superb,reliable",
    "bad": "awful,dull,shabby,clumsy,dreadful,flimsy,useless,tiresome,poor,broken",
    "who": "my sister,a friend,our neighbour,my boss,everyone,my uncle,the critic",
    "when": "yesterday,last week,on Monday,in March,this morning,two days ago,before the holidays",
    "amount": "20 euros,45 pounds,300 dollars,12 francs,75 euros,1000 kronor",
    "place": "Lisbon,Oslo,the airport,a small shop,Ghent,the station,Turin",
    "person": "my landlord,Anna,my brother,the plumber,my daughter,Mr Keller",
}
# A single word of praise or blame does not decide the label: it may be negated, quoted or outweighed.
_REVIEWS = {
    "positive": (
        "[The|This] {thing} [is|was] {good}, and the {part} [is|was] {good} too.",
        "I {when} [bought|tried] the {thing}: the {part} is anything but {bad}.",
        "{who} called the {thing} {bad}, [but|yet] I [think|find] it {good}.",
        "The {part} [is|was] {bad}, but all in all the {thing} [is|was] {good}.",
        "Not {bad} at all, this {thing}; [I would take it again|worth every penny].",
        "I expected a {bad} {thing} and got a {good} one.",
        "Hardly anything about the {thing} is {bad}, and the {part} is simply {good}.",
    ),
    "negative": (
        "[The|This] {thing} [is|was] {bad}, and the {part} [is|was] {bad} too.",
        "I {when} [bought|tried] the {thing}: the {part} is anything but {good}.",
        "{who} called the {thing} {good}, [but|yet] I [think|find] it {bad}.",
        "The {part} [is|was] {good}, but all in all the {thing} [is|was] {bad}.",
        "Not {good} at all, this {thing}; [never again|a waste of money].",
        "I expected a {good} {thing} and got a {bad} one.",
        "Hardly anything about the {thing} is {good}, and the {part} is simply {bad}.",
    ),
}
REQUESTS = {
    "card_arrival": (
        "[When|How soon] will my [new|] card [arrive|get here]?",
        "I ordered a card {when} and it [is not here|has not come] yet.",
        "[Can I|How do I] track the card that you sent {when}?",
    ),
    "card_lost": (
        "I [lost|can't find] my card [{when}|in {place}], [what now|please help].",
        "My card was [stolen|taken] in {place} {when}.",
        "Somebody has my card, [block it please|can you block it]?",
    ),
    "card_declined": (
        "My card was [refused|declined] in {place} {when}.",
        "Why did my payment of {amount} [not go through|fail] at {place}?",
        "The [machine|shop] in {place} won't take my card.",
    ),
    "exchange_rate": (
        "What rate do I get [for|if I change] {amount}?",
        "The rate for {amount} {when} [looks wrong|was not the one you show].",
        "[Where|How] can I see [today's|the] exchange rate?",
    ),
    "transfer_pending": (
        "The {amount} that I sent {person} {when} [are still pending|have not arrived].",
        "{person} [is waiting for|did not get] my transfer of {amount}.",
        "How long does a transfer to {person} take?",
    ),
    "transfer_cancel": (
        "I sent {amount} to {person} by mistake, [take it back|cancel it please].",
        "[Can I|How do I] cancel the transfer to {person} [of {when}|]?",
        "Please stop the {amount} [on the way|that go] to {person}.",
    ),
    "top_up": (
        "[How|Where] can I add {amount} to my account?",
        "I want to top up [with|by] {amount} [in {place}|from another card].",
        "The {amount} that I paid in {when} don't show in my balance.",
    ),
    "pin_change": (
        "[How|Where] do I change my PIN [in {place}|]?",
        "I [forgot|don't remember] my PIN, [can I get a new one|what now]?",
        "My PIN was blocked in {place} {when}.",
    ),
    "fee_charged": (
        "Why was I charged [a fee of {amount}|{amount} extra] {when}?",
        "There is a fee of {amount} for [cash|my withdrawal] in {place}.",
        "You took {amount} for a [payment|withdrawal] in {place}, [that is too much|what for]?",
    ),
    "account_close": (
        "[I want to|How do I] close my account?",
        "Please delete my account, [I moved to {place}|I am not happy with you].",
        "[Since {when} I|I] need no account with you any more.",
    ),
}
_TEMPLATES: dict[str, Mapping[str, Sequence[str]]] = {"sentiment": _REVIEWS, "intent": REQUESTS}
_OPENINGS = {
    "sentiment": ("Well.", "A short note:", "Honestly:", "My verdict?", "After a month:", "In a word:"),
    "intent": ("Hello!", "Hi there.", "Good day,", "One question:", "Excuse me.", "I need help:", "Hey."),
}


def generate_records(source: str) -> Iterator[Record]:
    """Generates the records `{"text", "label"}` of `demo:NAME/SPLIT`, the same on every machine.

    No text occurs in two splits. Raises `UserError` for another corpus or split.
    """
    name, _, split = source.removeprefix("demo:").partition("/")
    if name not in _TEMPLATES or split not in SIZES:
        known = (f"demo:{name}/{split}" for name in _TEMPLATES for split in SIZES)
        raise UserError(f"{source}: no such corpus of texts with labels; expected {', '.join(known)}")
    return _generate(name, split)


def _generate(name: str, split: str) -> Iterator[Record]:
    rng = random.Random(f"{_SEED}/{name}/{split}")
    templates, seen = _TEMPLATES[name], set[str]()
    for number in range(1, SIZES[split] + 1):
        text = None
        while text is None or text in seen or assign_split(text) != split:
            label = rng.choice(list(templates))
            text = _write(rng, rng.choice(templates[label]))
            if rng.random() < 0.5:  # gives templates with few choices more variants
                text = rng.choice(_OPENINGS[name]) + " " + text
        seen.add(text)
        origin = f"demo:{name}/{split}"
        yield f"{origin}, row {number}", f"{origin}:{number}", {"text": text, "label": label}


def choose_alternatives(rng: random.Random, template: str) -> str:
    """Replaces each `[choice|another]` in a template by one alternative; slots `{name}` remain."""
    text = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), template)
    return re.sub(r" +", " ", text).replace(" ?", "?").strip()


def _write(rng: random.Random, template: str) -> str:
    """Writes a text from a template."""
    text = _SLOT.sub(lambda match: rng.choice(WORDS[match[1]].split(",")), choose_alternatives(rng, template))
    return text[0].upper() + text[1:]


def assign_split(text: str) -> str:
    """Returns a text's split, chosen by the text's hash, so that no text occurs in two splits."""
    share = hashlib.sha256(text.lower().encode()).digest()[0] / 256
    return "train" if share < 0.7 else "dev" if share < 0.85 else "test"
