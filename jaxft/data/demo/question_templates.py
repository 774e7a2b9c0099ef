"""Lists the templates of the synthetic corpus `demo:qa`: sentences about people and firms, and questions about them."""

from typing import NamedTuple


class Relation(NamedTuple):
    """A kind of fact about a subject: templates for sentences that state it, and for questions by the answer's slot.

    Train does not use the last template of each tuple.
    """

    sentences: tuple[str, ...]
    questions: dict[str, tuple[str, ...]]


# Name -> relation, for a person; below for a firm.
PERSON = {
    "birth": Relation(
        (
            "{subject} was born in {city} in {year}.",
            "Born in {city} in {year}, {subject} grew up with two sisters.",
            "In {year} {subject} came into the world in {city}.",
            "{city} is where {subject} was born in {year}.",
        ),
        {
            "city": (
                "Where was {subject} born?",
                "In which town was {subject} born?",
                "What is {subject}'s birthplace?",
            ),
            "year": (
                "When was {subject} born?",
                "In which year was {subject} born?",
                "What is {subject}'s year of birth?",
            ),
        },
    ),
    "work": Relation(
        (
            "{subject} works for {company} as head of {subject_matter}.",
            "At {company}, {subject} is in charge of {subject_matter}.",
            "{company} hired {subject} to look after {subject_matter}.",
            "{subject} was put in charge of {subject_matter} at {company}.",
        ),
        {
            "company": (
                "Who does {subject} work for?",
                "Which firm employs {subject}?",
                "Where does {subject} work?",
            ),
            "subject_matter": (
                "What is {subject} in charge of?",
                "What does {subject} look after?",
                "Which field is {subject} responsible for?",
            ),
        },
    ),
    "study": Relation(
        (
            "{subject} studied at the {school}.",
            "The {school} gave {subject} a degree.",
            "As a student {subject} went to the {school}.",
            "{subject} holds a degree from the {school}.",
        ),
        {
            "school": (
                "Where did {subject} study?",
                "Which school did {subject} go to?",
                "Who gave {subject} a degree?",
            )
        },
    ),
    "home": Relation(
        (
            "{subject} now lives in {city} with {n9} cats.",
            "The home of {subject} is in {city}.",
            "{subject} has moved to {city}.",
            "These days {subject} can be found in {city}.",
        ),
        {
            "city": (
                "Where does {subject} live?",
                "In which town is {subject} at home?",
                "Where is the home of {subject}?",
            )
        },
    ),
    "club": Relation(
        (
            "{subject} supports {club} and never misses a match.",
            "On Sundays {subject} plays for {club}.",
            "{club} has no keener member than {subject}.",
            "{subject} wears the colours of {club}.",
        ),
        {
            "club": (
                "Which club is {subject} close to?",
                "What is the club of {subject}?",
                "Which side does {subject} support?",
            )
        },
    ),
}
FIRM = {
    "founding": Relation(
        (
            "{subject} was founded by {person} in {year}.",
            "In {year} {person} set up {subject}.",
            "{person} started {subject} in a garage in {year}.",
            "{subject} goes back to {person}, who opened it in {year}.",
        ),
        {
            "person": ("Who founded {subject}?", "Who set up {subject}?", "Who started {subject}?"),
            "year": (
                "When was {subject} founded?",
                "In which year was {subject} set up?",
                "Since when has {subject} existed?",
            ),
        },
    ),
    "seat": Relation(
        (
            "{subject} has its seat in {city}.",
            "The head office of {subject} is in {city}.",
            "{subject} is run from {city}.",
            "From {city}, {subject} does business with half the world.",
        ),
        {
            "city": (
                "Where is the head office of {subject}?",
                "Where does {subject} have its seat?",
                "Which town is {subject} run from?",
            )
        },
    ),
    "product": Relation(
        (
            "{subject} makes the {product}.",
            "The {product} is built by {subject}.",
            "{subject} is known for the {product}.",
            "It is {subject} that sells the {product}.",
        ),
        {
            "product": (
                "What does {subject} make?",
                "What is {subject} known for?",
                "What is built by {subject}?",
            )
        },
    ),
    "staff": Relation(
        (
            "{subject} has {count} workers.",
            "Some {count} people work at {subject}.",
            "{subject} pays the wages of {count} people.",
            "The staff of {subject} has grown to {count}.",
        ),
        {
            "count": (
                "How many people work at {subject}?",
                "How many workers does {subject} have?",
                "How large is the staff of {subject}?",
            )
        },
    ),
}
FILLERS = (
    "Little else is known.",
    "The rest is a matter of opinion.",
    "A local paper has told the story more than once.",
    "Neighbours speak well of them.",
    "It rained a good deal that year.",
    "Nobody was surprised.",
    "There were doubts at first, but they did not last.",
    "Much has been written about it since then.",
)
