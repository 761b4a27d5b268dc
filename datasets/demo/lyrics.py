"""Random lyrics whose words tell valence and arousal.

A phrase is a connecting word and two words of one kind. The more happy phrases among the happy and sad ones, the higher
the valence; the more lively ones among the lively and calm ones, the higher the arousal.
"""

from dataclasses import dataclass

import numpy as np

VALENCE_SHARE = 0.6  # of the phrases are happy or sad; the others are lively or calm
PHRASES = (7, 13)  # fewest and most in a song
PHRASES_PER_LINE = 2
WORDS: dict[str, tuple[str, ...]] = {
    "happy": ("sunshine", "laughter", "smiling", "golden", "sweet", "joy", "blossom", "hope"),
    "sad": ("tears", "lonely", "broken", "sorrow", "rain", "empty", "goodbye", "ashes"),
    "lively": ("dancing", "running", "fire", "thunder", "racing", "shouting", "drums", "electric"),
    "calm": ("sleeping", "gentle", "slowly", "quiet", "drifting", "candle", "whisper", "resting"),
    "neutral": ("and", "the", "with", "my", "your", "in", "we", "they", "all", "when"),
}


@dataclass(frozen=True)
class Lyrics:
    """Lyrics with their valence and arousal, from -1 to 1."""

    text: str
    valence: float
    arousal: float


def draw(*seed: int) -> Lyrics:
    """Draw the lyrics of a seed: 21 to 39 words in lines of six."""
    rng = np.random.default_rng(seed)
    valence, arousal = rng.uniform(-1, 1, size=2).tolist()
    num_phrases = int(rng.integers(PHRASES[0], PHRASES[1] + 1))
    num_valence = round(VALENCE_SHARE * num_phrases)
    num_happy = round(num_valence * (1 + valence) / 2)
    num_lively = round((num_phrases - num_valence) * (1 + arousal) / 2)
    kinds = ["happy"] * num_happy + ["sad"] * (num_valence - num_happy)
    kinds += ["lively"] * num_lively + ["calm"] * (num_phrases - num_valence - num_lively)
    phrases = []
    for index in rng.permutation(num_phrases):
        first = WORDS["neutral"][rng.integers(len(WORDS["neutral"]))]
        words = WORDS[kinds[index]]
        phrases.append(" ".join([first, *(words[place] for place in rng.permutation(len(words))[:2])]))
    lines = [phrases[start : start + PHRASES_PER_LINE] for start in range(0, num_phrases, PHRASES_PER_LINE)]
    return Lyrics("\n".join(" ".join(line) for line in lines) + "\n", valence, arousal)
