"""CPU seconds of `dexml.text.tokens.tokenize` against the plain `encode_batch` of the library.

    TOKENIZERS_PARALLELISM=false python benches/bench_tokens.py ENCODER

Texts are made of the words of the encoder's vocabulary, with a fixed seed: 100,000 titles of 2 to
20 words cut to 32 tokens, and 2,000 documents of 2,000 to 6,000 words cut to 128. Both ways are
run in turn, three times; the least counts. Results are compared.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from dexml.encoder import DualEncoder
from dexml.text.tokens import tokenize

ROUNDS = 3


def texts_of(words: list[str], n: int, shortest: int, longest: int) -> list[str]:
    """Make `n` texts of a random number of random words."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(shortest, longest + 1, n)
    return [" ".join(words[i] for i in generator.integers(0, len(words), k)) for k in lengths]


def plain(tokenizer: Any, texts: list[str], max_tokens: int) -> list[list[int]]:
    """Tokenise everything at once, and cut."""
    tokenizer.backend_tokenizer.enable_truncation(max_length=max_tokens)
    return [encoding.ids for encoding in tokenizer.backend_tokenizer.encode_batch(texts)]


def main(name: str) -> None:
    """Print a line for each set of texts."""
    tokenizer = DualEncoder.load(name).tokenizer
    words = sorted(word for word in tokenizer.get_vocab() if word.isalpha())
    for title, max_tokens, sizes in (
        ("100,000 titles", 32, (100_000, 2, 20)),
        ("2,000 documents", 128, (2_000, 2_000, 6_000)),
    ):
        texts = texts_of(words, *sizes)
        seconds: dict[str, list[float]] = {"plain": [], "ours": []}
        for _ in range(ROUNDS):
            start = time.process_time()
            expected = plain(tokenizer, texts, max_tokens)
            seconds["plain"].append(time.process_time() - start)
            start = time.process_time()
            found = tokenize(tokenizer, texts, max_tokens)
            seconds["ours"].append(time.process_time() - start)
        if found.ids.tolist() != [i for ids in expected for i in ids]:
            raise SystemExit("the two ways disagree")
        least = {way: min(times) for way, times in seconds.items()}
        print(f"{title}: encode_batch {least['plain']:.2f} CPU s, tokenize {least['ours']:.2f}")


if __name__ == "__main__":
    main(sys.argv[1])
