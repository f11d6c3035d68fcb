"""Writes dates in words with the same dates in digits, and the word tokenizer of recipes/t5_tiny.

    python data/dates/make.py

Every date is drawn once, so no split holds a date of another one. Same script, same files.
"""

import datetime
import json
import random
from pathlib import Path

SEED = 7
SPLITS = {"fit": 800, "select": 100, "report": 300}
YEARS = (1900, 2029)

UNITS = "one two three four five six seven eight nine".split()
TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
).split()
MONTHS = "january february march april may june july august september october november december".split()
TEMPLATES = [
    "the {day} of {month} {year}",
    "{month} the {day} {year}",
    "{month} {day} in the year {year}",
    "in {year} on the {day} of {month}",
]


def day_in_words(day):
    if day <= 20:
        return ORDINALS[day - 1]
    return {30: "thirtieth"}.get(day) or f"{TENS[day // 10 - 2]} {ORDINALS[day % 10 - 1]}"


def below_hundred(number):
    if number < 10:
        return UNITS[number - 1]
    if number < 20:
        return TEENS[number - 10]
    unit = f" {UNITS[number % 10 - 1]}" if number % 10 else ""
    return TENS[number // 10 - 2] + unit


def year_in_words(year):
    century, rest = divmod(year, 100)
    if century == 20 and rest < 10:
        return "two thousand" + (f" and {UNITS[rest - 1]}" if rest else "")
    if rest == 0:
        return f"{below_hundred(century)} hundred"
    return f"{below_hundred(century)} {'oh ' if rest < 10 else ''}{below_hundred(rest)}"


def row(date, template):
    words = {
        "day": day_in_words(date.day),
        "month": MONTHS[date.month - 1],
        "year": year_in_words(date.year),
    }
    return {"text": template.format(**words), "label": date.isoformat()}


def tokenizer():
    special = ["<pad>", "</s>", "<unk>"]
    words = [*"0123456789-", *UNITS, *TEENS, *TENS, *ORDINALS, "thirtieth", *MONTHS]
    words += "the of in year on oh and hundred thousand".split()
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    text, end = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, "content": word, **added} for index, word in enumerate(special)],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "WhitespaceSplit"},
                {"type": "Digits", "individual_digits": True},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [text, end],
            "pair": [text, end, second, end],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        # What is written are digits and dashes: they stand side by side.
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": {word: index for index, word in enumerate(special + words)},
            "unk_token": "<unk>",
        },
    }


def main():
    here = Path(__file__).parent
    generator = random.Random(SEED)
    first, last = (datetime.date(year, 1, 1).toordinal() for year in (YEARS[0], YEARS[1] + 1))
    dates = iter(generator.sample(range(first, last), sum(SPLITS.values())))
    for split, size in SPLITS.items():
        with open(here / f"{split}.jsonl", "w", encoding="utf-8") as lines:
            for _ in range(size):
                date = datetime.date.fromordinal(next(dates))
                print(json.dumps(row(date, generator.choice(TEMPLATES))), file=lines)
    model = here.parent.parent / "recipes" / "t5_tiny"
    text = json.dumps(tokenizer(), indent=1)
    (model / "tokenizer.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
