"""CREMA-D: 91 actors say twelve sentences in six emotions, 7,442 clips.

Cao, Cooper, Keutmann, Gur, Nenkova & Verma (2014), "CREMA-D: crowd-sourced emotional multimodal actors dataset",
IEEE Transactions on Affective Computing 5(4). Layout:

    AudioWAV/1001_DFA_ANG_XX.wav        actor, sentence, emotion, level; or AudioMP3/, or without such a folder

The class is the emotion that the actor was asked to express. EmoBox's one fold of it (`data.folds=emobox`) deals clips:
it tests 1,856, of all 91 actors.
"""

import re

from tuning.datasets import storage
from tuning.datasets.corpora import fold_lists, layout
from tuning.datasets.corpora import labels as emotions
from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.settings import DataSettings

AUDIO = ("AudioWAV", "AudioMP3")
ACTORS = [str(actor) for actor in range(1001, 1092)]
SENTENCES = ("DFA", "IEO", "IOM", "ITH", "ITS", "IWL", "IWW", "MTI", "TAI", "TIE", "TSI", "WSI")
LABELS = {"ANG": "angry", "DIS": "disgust", "FEA": "fearful", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": "none", "X": "none"}  # X: in 1040_ITH_SAD_X, as published


def load(data: DataSettings, targets: list[str]) -> Corpus:
    """Read the clips in the order of their names, with the acted emotion, the actor as group, and the fold if named.

    Raises ValueError naming the setting at fault: no recordings, a name that is not CREMA-D's, an actor without clips,
    unknown folds, lists of folds that are missing, damaged or of other clips.
    """
    layout.refuse_settings(data, "text_column", "label_column", "group_column", "fold_column", "split_column")
    folds = emotions.folds_of_speakers(data, ACTORS, listed=[fold_lists.EMOBOX])
    root = layout.check_root(data)
    folder, recordings = layout.find_recordings(root, *AUDIO)
    clips: list[Clip] = []
    for stem, path in recordings.items():
        place = storage.below(root, path)
        if not re.fullmatch(r"\d+(_[A-Z]+){3}", stem):
            raise ValueError(f"data.root: expected a name such as 1001_DFA_ANG_XX.wav, got {place}")
        actor, sentence, emotion, level = stem.split("_")
        if actor not in ACTORS:
            raise ValueError(f"data.root: expected the actor, 1001 to 1091, got '{actor}' in {place}")
        emotions.decode(SENTENCES, sentence, "the sentence", place)
        emotions.decode(LEVELS, level, "the level", place)
        label = emotions.decode(LABELS, emotion, "the emotion", place)
        clips.append(Clip(path, group=actor, fold=folds.get(actor), label=label))
    emotions.check_speakers((str(clip.group) for clip in clips), ACTORS, layout.location(root, folder))
    return fold_lists.with_listed_folds(Corpus(data.corpus, root, clips), data, num_folds=1)
