"""Short English texts on eight subjects, for calibration and evaluation of embedding recipes.

The source in a recipe is ``python:texts:sentences``. The texts have no labels: an embedding is
compared with the embedding before compression.

Each subject has five sentences with a gap and five fillings. Some texts mean nearly the same, some
share a subject, and most are unrelated. A ranking by similarity needs all three.
"""

from __future__ import annotations

SUBJECTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "cooking": (
        (
            "Let the {} simmer for twenty minutes before you taste it again.",
            "My grandmother never wrote down how she made her {}.",
            "Too much salt will ruin a {}, so add it at the end.",
            "Is there a way to keep {} fresh for the whole week?",
            "We served the {} with warm bread and a green salad, and nobody left the table hungry.",
        ),
        ("lentil soup", "tomato sauce", "fish stew", "mushroom curry", "bean chili"),
    ),
    "travel": (
        (
            "The night train to {} leaves from the last platform.",
            "We missed our connection and spent an afternoon in {} instead.",
            "What is the cheapest month to fly to {}?",
            "Our guide in {} knew every staircase of the old town.",
            "After three rainy days we gave up on the coast and took a slow bus to {}.",
        ),
        ("Lisbon", "Trieste", "Kraków", "Bergen", "Tbilisi"),
    ),
    "medicine": (
        (
            "The clinic advises patients with {} to drink more water.",
            "A new trial compares two treatments for {} over twelve months.",
            "How long should I wait before I see a doctor about {}?",
            "She has lived with {} since she was a student.",
            "Regular exercise lowers the risk of {}, though the effect differs from one study to "
            "the next.",
        ),
        ("migraine", "high blood pressure", "asthma", "back pain", "kidney stones"),
    ),
    "computing": (
        (
            "The {} fails only when two requests arrive at the same moment.",
            "Please restart the {} after you change its settings.",
            "Why does our {} need so much memory?",
            "A single wrong index slowed the {} down by a factor of ten.",
            "We replaced the {} last winter, and since then nobody has been woken up by an alarm.",
        ),
        ("message queue", "web server", "search index", "database", "build system"),
    ),
    "sport": (
        (
            "The home side won the {} final in extra time.",
            "Children can try {} free of charge on Saturday mornings.",
            "An injured knee ended her {} career at twenty-six.",
            "Who holds the national record in {}?",
            "The referee stopped the {} match twice because of the fog, and then called it off.",
        ),
        ("handball", "water polo", "field hockey", "volleyball", "rugby"),
    ),
    "money": (
        (
            "The bank raised the interest on {} by a quarter of a point.",
            "Read the small print before you sign for {}.",
            "Can a student get {} without a guarantor?",
            "Fees on {} have doubled within five years.",
            "Most families we asked could not say what they pay for {}, let alone compare two "
            "offers.",
        ),
        ("a mortgage", "a savings account", "a car loan", "a pension plan", "a credit card"),
    ),
    "nature": (
        (
            "The {} returns to the valley as soon as the snow melts.",
            "Ten years ago there was not a single {} left on this island.",
            "A {} can smell its food from a mile away.",
            "Have you ever seen a {} this close to the city?",
            "Volunteers count each {} at dawn, when the wind is low and the hills are quiet.",
        ),
        ("brown bear", "lynx", "red deer", "wild boar", "otter"),
    ),
    "music": (
        (
            "The {} comes in only after the second verse.",
            "He sold his {} to pay the rent and has regretted it ever since.",
            "How many hours a day should a beginner practise the {}?",
            "The slow movement gives the {} a melody of its own.",
            "Nobody in the hall had expected the {} to be so loud, least of all the conductor.",
        ),
        ("cello", "clarinet", "trumpet", "viola", "bassoon"),
    ),
}
"""Subject → five sentences with a gap, and its five fillings."""


def sentences() -> list[str]:
    """Return all 200 texts, each once, in a fixed order."""
    return [
        sentence.format(filling)
        for templates, fillings in SUBJECTS.values()
        for sentence in templates
        for filling in fillings
    ]
