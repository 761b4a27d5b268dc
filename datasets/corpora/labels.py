"""Common names of emotions, and helpers for corpora whose labels are in file names."""

from collections.abc import Iterable, Mapping, Sequence

from tuning.datasets.corpus import did_you_mean

# An emotion has the same name in every corpus, whatever the corpus calls it.
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
    """The meaning of a code in a file name; a code of a plain sequence means itself.

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
    """Raise ValueError when a published speaker has no recording: results could not be compared."""
    published = list(published)
    if missing := sorted(set(published) - set(found)):
        raise ValueError(
            f"data.root: expected recordings of {len(published)} speakers, {published[0]} to {published[-1]}, "
            f"got none of {', '.join(missing)} in {place}"
        )
