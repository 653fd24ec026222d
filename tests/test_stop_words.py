"""Function words of the languages that texts are written in."""

import random

import numpy as np
import pytest
from scipy.sparse import csr_array

from dexml import _rust
from dexml.run import LabelSet
from dexml.scorers.lexical import LexicalScorer
from dexml.scorers.lexicon import Lexicon
from dexml.scorers.queries import Queries
from dexml.text.stop_words import find_stop_words

ENGLISH = "the library of {} is for a parser and this {} is in it"
GERMAN = "die Bibliothek der {} ist für ein Programm und das {} ist nicht groß"
RUSSIAN = "это {} и не было в нём, что {} на"
THINGS = [f"thing{i}" for i in range(200)]


def texts_of(pattern: str, n: int) -> list[str]:
    """Texts with words of their own in a frame of function words."""
    draw = random.Random(0)
    return [pattern.format(draw.choice(THINGS), draw.choice(THINGS)) for _ in range(n)]


@pytest.mark.parametrize(
    ("pattern", "left_out", "kept"),
    [
        (ENGLISH, {"the", "of", "is", "for", "a", "and", "this", "in", "it"}, "library"),
        (GERMAN, {"die", "der", "ist", "für", "ein", "und", "das", "nicht"}, "bibliothek"),
        (RUSSIAN, {"и", "не", "было", "в", "что", "на"}, "нём"),
    ],
    ids=["en", "de", "ru"],
)
def test_common_words_of_the_language_at_hand(pattern: str, left_out: set[str], kept: str) -> None:
    found = find_stop_words(texts_of(pattern, 100))
    assert left_out <= set(found)
    assert kept not in found
    assert not set(THINGS) & set(found)
    assert list(found) == sorted(found)


def test_each_of_two_languages_counts() -> None:
    found = set(find_stop_words([*texts_of(ENGLISH, 300), *texts_of(GERMAN, 100)]))
    assert {"the", "of", "der", "und"} <= found


def test_a_language_of_few_texts_does_not_count() -> None:
    found = set(find_stop_words([*texts_of(ENGLISH, 3000), *texts_of(GERMAN, 30)]))
    assert "the" in found
    # "die" is a content word of English texts about printing.
    assert not {"die", "und", "nicht"} & found


def test_rare_words_of_a_list_stay() -> None:
    texts = [*texts_of(ENGLISH, 1000), *["the vitamin d of it is for them"] * 5]
    assert "d" in _rust.stop_words_of("en")
    assert {"d", "them"}.isdisjoint(find_stop_words(texts))


@pytest.mark.parametrize(
    "texts",
    [[], ["the"], [""] * 50, texts_of("{} {}", 100), texts_of("โรค {} ไข้ {}", 100)],
    ids=["none", "one", "empty", "without function words", "Thai"],
)
def test_nothing_is_left_out_without_evidence(texts: list[str]) -> None:
    assert find_stop_words(texts) == ()


def test_long_lists_of_texts_are_sampled_evenly() -> None:
    texts = [*texts_of("{} {}", 15_000), *texts_of(ENGLISH, 15_000)]
    assert "the" in find_stop_words(texts)


def test_an_unknown_language_is_named() -> None:
    with pytest.raises(ValueError, match="no stop words for language 'xx'; known: ar, az"):
        _rust.stop_words_of("xx")


def test_words_left_out_are_no_evidence_and_pieces_of_them_are() -> None:
    texts = ["the kernel of it", "the parser of it"]
    labels = ["kernel", "parser", "the of"]
    lexicon = Lexicon.fit(texts, labels, ("it", "of", "the"))
    assert lexicon.stop_words == ("it", "of", "the")
    assert all(lexicon.words.column(word) is None for word in ("the", "of", "the kernel"))
    grown = lexicon.with_texts(["the scheduler of it"])
    assert grown.later.column("scheduler") is not None
    assert grown.later.column("the") is None
    # A label of nothing else is still found, by its characters.
    y = csr_array(np.eye(2, 3, dtype=np.float32))
    scorer = LexicalScorer.fit(texts, y, LabelSet.of(labels, np.array([1, 1, 0])), lexicon)
    proposed = scorer.propose(Queries(["the of"]))
    assert 2 in np.concatenate(proposed, axis=1)[0]
