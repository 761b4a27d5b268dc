"""Common names of emotions, and helpers for corpora whose labels and speakers are in file names."""

import re
from collections.abc import Iterable, Mapping, Sequence

from tuning.datasets.corpus import did_you_mean
from tuning.datasets.settings import DataSettings

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


def folds_of_speakers(
    data: DataSettings,
    speakers: Sequence[str],
    published: Mapping[str, Mapping[str, str]] | None = None,
    listed: Sequence[str] = (),
) -> dict[str, str]:
    """The fold of each speaker by `data.folds`; without it those published first, or none.

    `speakers` gives each a fold of its name, to leave one speaker out. `speakers_K` deals all of them into K folds in
    their order, as even in size as can be: of ten speakers the first two are fold 1 of five. Folds that are `listed`
    deal clips, so that no speaker has one. Raises ValueError for another name than these and the published ones.
    """
    published = published or {}
    name = data.folds or next(iter(published), None)
    if name is None or name in listed:
        return {}
    if name in published:
        return dict(published[name])
    if name == "speakers":
        return {speaker: speaker for speaker in speakers}
    if (match := re.fullmatch(r"speakers_(\d+)", name)) and 2 <= (num_folds := int(match[1])) <= len(speakers):
        return {speaker: str(1 + place * num_folds // len(speakers)) for place, speaker in enumerate(speakers)}
    named = [*published, *listed, "speakers"]
    raise ValueError(
        f"data.folds: expected one of {', '.join([*named, 'speakers_K'])}, with K from 2 to {len(speakers)} folds, "
        f"got '{name}'{did_you_mean(name, named)}"
    )
