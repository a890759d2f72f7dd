"""Sentences from templates, where no real ones are at hand: an intent is something to do with some object."""

from itertools import product

import torch

from mlcore.datasets.sentences import Sentences
from mlcore.task import seeded

# Words of a line mean the same, and nothing in the letters says so.
_ACTIONS = """
cancel: cancel | call off | drop | undo
get: order | book | reserve | arrange
change: change | move | adjust | rework
find: find | locate | look up | track down
pay: pay for | settle | purchase | buy
complain: complain about | report | criticise | grumble about
explain: explain | describe | tell me about | clarify
send: send | share | forward | pass on
"""
_OBJECTS = """
travel: flight, plane, air ticket | hotel, room, place to stay | train, rail ticket, sleeper seat
dining: dinner, evening meal, supper | pizza, takeaway, delivery | table, restaurant, seat by the window
home: heating, radiator, boiler | light, lamp, bulb | alarm, burglar siren, door sensor
car: oil, lubricant, engine fluid | tyre, wheel, rim | petrol, fuel, diesel
health: doctor, physician, surgeon | medicine, pills, prescription | insurance, cover, health plan
school: course, class, seminar | exam, test, final paper | grade, mark, report card
work: meeting, call, get-together | holiday, leave, days off | payslip, salary, wages
music: song, tune, track | concert, gig, live show | playlist, mix, album
parcel: parcel, package, box | courier, driver, postman | label, stamp, address slip
garden: lawn, grass, turf | hedge, bush, shrub | watering, sprinkler, hose
"""
_FRAMES = (
    "please {} {} {}",
    "can you {} {} {}",
    "i would like to {} {} {}",
    "{} {} {} if you can",
    "how do i {} {} {}",
    "could somebody {} {} {}",
    "is it possible to {} {} {}",
    "i need you to {} {} {}",
)
_THINGS = ("the {}", "my {}", "that {}", "our {}")
_TIMES = ("today", "for tomorrow", "by friday", "before noon", "next week", "right away")

SPLITS = {
    "train": ("travel", "dining", "home", "car", "health", "school"),
    "val": ("work", "music"),
    "test": ("parcel", "garden"),
}
"""Which domains are for what: objects are new in the others, the things that one does with them are not."""


def phrases(*, each: int = 20) -> Sentences:
    """Generated sentences: 10 domains of 24 intents, each of them one of 8 actions upon one of 3 objects.

    An action has four names and an object three, so that two sentences of one intent need not share a word that
    matters. The actions come back in every domain: what is learned of their names in one serves in the next.

    Args:
        each: sentences of every intent.
    """
    generator = seeded(0)
    texts, names = [], []
    for (domain, objects), (action, verbs) in product(_parsed(_OBJECTS), _parsed(_ACTIONS)):
        for synonyms in (words.split(", ") for words in objects):
            every = list(product(_FRAMES, verbs, _THINGS, synonyms, _TIMES))
            for i in torch.randperm(len(every), generator=generator)[:each].tolist():
                frame, verb, thing, word, time = every[i]
                texts.append(frame.format(verb, thing.format(word), time))
                names.append(f"{domain}/{action} {synonyms[0]}")
    return Sentences(texts, names)


def _parsed(lines: str) -> list[tuple[str, list[str]]]:
    """Each line's name and its parts."""
    pairs = (line.split(": ") for line in lines.strip().splitlines())
    return [(name, parts.split(" | ")) for name, parts in pairs]
