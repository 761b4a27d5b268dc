"""EmoDB, the Berlin Database of Emotional Speech: ten actors say ten German sentences in seven emotions, 535 clips.

Burkhardt, Paeschke, Rolfes, Sendlmeier & Weiss (2005), "A database of German emotional speech", Interspeech. Layout:

    wav/03a01Fa.wav         speaker, sentence, emotion, version; or in folders of classes, with wav/ or without

EmoBox's five folds of it (`data.folds=emobox`) deal clips: each tests 107, of all ten speakers.
"""

import re

from tuning.datasets import storage
from tuning.datasets.corpora import fold_lists, layout
from tuning.datasets.corpora import labels as emotions
from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.settings import DataSettings

AUDIO = "wav"
SPEAKERS = ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16")
TEXTS = ("a01", "a02", "a04", "a05", "a07", "b01", "b02", "b03", "b09", "b10")
LABELS = {  # by the first letter of the German word
    "A": "fearful",
    "E": "disgust",
    "F": "happy",
    "L": "bored",
    "N": "neutral",
    "T": "sad",
    "W": "angry",
}


def load(data: DataSettings, targets: list[str]) -> Corpus:
    """Read the clips in the order of their names, with their emotion, the speaker as group, and the fold if named.

    The emotion is that of the name, whatever the folder is called. Raises ValueError naming the setting at fault: no
    recordings, a name that is not EmoDB's, a speaker without clips, unknown folds, lists of folds that are missing,
    damaged or of other clips.
    """
    layout.refuse_settings(data, "text_column", "label_column", "group_column", "fold_column", "split_column")
    folds = emotions.folds_of_speakers(data, SPEAKERS, listed=[fold_lists.EMOBOX])
    root = layout.check_root(data)
    folder, recordings = layout.find_recordings(root, AUDIO, nested=True)
    clips: list[Clip] = []
    for stem, path in sorted(recordings.items()):
        place = storage.below(root, path)
        if not (parts := re.fullmatch(r"(\d\d)([a-z]\d\d)([A-Z])[a-z]", stem)):
            raise ValueError(f"data.root: expected a name such as 03a01Fa.wav, got {place}")
        speaker, text, emotion = parts.groups()
        emotions.decode(TEXTS, text, "the sentence", place)
        group = emotions.decode(SPEAKERS, speaker, "the speaker", place)
        label = emotions.decode(LABELS, emotion, "the emotion", place)
        clips.append(Clip(path, group=group, fold=folds.get(group), label=label))
    emotions.check_speakers((str(clip.group) for clip in clips), SPEAKERS, layout.location(root, folder))
    return fold_lists.with_listed_folds(Corpus(data.corpus, root, clips), data, num_folds=5)
