"""Whole numbers below a million in words, in English, German and French."""

from __future__ import annotations

_EN_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_EN_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_DE_SMALL = (
    "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn "
    "achtzehn neunzehn"
).split()
_DE_TENS = "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig".split()
_FR_SMALL = (
    "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept dix-huit "
    "dix-neuf"
).split()
_FR_TENS = "vingt trente quarante cinquante soixante".split()


def english(number: int) -> str:
    """A number in English.

    >>> english(0), english(21), english(342), english(19_001)
    ('zero', 'twenty-one', 'three hundred forty-two', 'nineteen thousand one')
    """
    if number >= 1000:
        rest = f" {english(number % 1000)}" if number % 1000 else ""
        return f"{english(number // 1000)} thousand{rest}"
    if number >= 100:
        rest = f" {english(number % 100)}" if number % 100 else ""
        return f"{_EN_SMALL[number // 100]} hundred{rest}"
    if number < 20:
        return _EN_SMALL[number]
    ones = f"-{_EN_SMALL[number % 10]}" if number % 10 else ""
    return _EN_TENS[number // 10 - 2] + ones


def german(number: int) -> str:
    """A number in German, one word.

    >>> german(1), german(21), german(101), german(342), german(1_001)
    ('eins', 'einundzwanzig', 'einhunderteins', 'dreihundertzweiundvierzig', 'eintausendeins')
    >>> german(21_016)
    'einundzwanzigtausendsechzehn'
    """
    if number >= 1000:
        return _german_before(number // 1000) + "tausend" + (german(number % 1000) if number % 1000 else "")
    if number >= 100:
        return _german_before(number // 100) + "hundert" + (german(number % 100) if number % 100 else "")
    if number < 20:
        return _DE_SMALL[number]
    ones = f"{_german_before(number % 10)}und" if number % 10 else ""
    return ones + _DE_TENS[number // 10 - 2]


def _german_before(number: int) -> str:
    """A number before ``hundert``, ``tausend`` or ``und``: its last "eins" is "ein"."""
    return german(number).removesuffix("s") if number % 100 == 1 else german(number)


def french(number: int) -> str:
    """A number in French (of France), in the spelling before 1990.

    >>> french(21), french(71), french(80), french(81), french(99)
    ('vingt et un', 'soixante et onze', 'quatre-vingts', 'quatre-vingt-un', 'quatre-vingt-dix-neuf')
    >>> french(100), french(200), french(201), french(1_000), french(80_000), french(200_000)
    ('cent', 'deux cents', 'deux cent un', 'mille', 'quatre-vingt mille', 'deux cent mille')
    """
    if number >= 1000:
        thousands = number // 1000
        # Before mille, which is itself a numeral, cents and vingts lose their s.
        before = "" if thousands == 1 else f"{_without_plural(french(thousands))} "
        rest = f" {french(number % 1000)}" if number % 1000 else ""
        return f"{before}mille{rest}"
    if number >= 100:
        hundreds = number // 100
        before = "" if hundreds == 1 else f"{_FR_SMALL[hundreds]} "
        if number % 100 == 0:
            return f"{before}cent" + ("s" if hundreds > 1 else "")
        return f"{before}cent {french(number % 100)}"
    if number < 20:
        return _FR_SMALL[number]
    if number >= 80:
        return "quatre-vingts" if number == 80 else f"quatre-vingt-{french(number - 80)}"
    # 70 to 79 count on from 60.
    tens = min(number // 10, 6)
    rest_number = number - 10 * tens
    if not rest_number:
        return _FR_TENS[tens - 2]
    joint = " et " if rest_number in (1, 11) else "-"
    return f"{_FR_TENS[tens - 2]}{joint}{_FR_SMALL[rest_number]}"


def _without_plural(words: str) -> str:
    return words.removesuffix("s") if words.endswith(("cents", "vingts")) else words
