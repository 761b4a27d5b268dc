"""The one vocabulary of emotions, and what layouts share whose labels stand in file names."""

from collections.abc import Iterable, Mapping, Sequence

from tuning.datasets.corpus import did_you_mean

# Whatever a corpus calls them, a class has one name here, so that classes mean the same in every corpus.
EMOTIONS = (
    "neutral",
    "calm",
    "happy",
    "sad",
    "angry",
    "fearful",
    "disgust",
    "surprised",
    "bored",
    "excited",
    "frustrated",
    "other",
    "undecided",  # the raters did not agree
)


def decode(codes: Mapping[str, str] | Sequence[str], code: str, what: str, place: str) -> str:
    """What a code stands for, itself where nothing more is known of it.

    Raises ValueError with the known codes, the nearest one and the place.
    """
    meanings = codes if isinstance(codes, Mapping) else {}
    if code not in codes:
        known = ", ".join(f"{key} ({meanings[key]})" if key in meanings else key for key in codes)
        raise ValueError(
            f"data.root: expected {what}, one of {known}, got '{code}' in {place}{did_you_mean(code, codes)}"
        )
    return meanings.get(code, code)


def check_speakers(found: Iterable[str], published: Iterable[str], place: str) -> None:
    """Raise ValueError when a published speaker has no recording: results would be of another corpus."""
    published = list(published)
    if missing := sorted(set(published) - set(found)):
        raise ValueError(
            f"data.root: expected recordings of {len(published)} speakers, {published[0]} to {published[-1]}, "
            f"got none of {', '.join(missing)} in {place}"
        )
