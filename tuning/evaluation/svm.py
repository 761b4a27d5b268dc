"""An untuned SVM on statistics of the same features: what a model has to beat, on the clips that it was tested on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

from tuning.datasets.corpus import Clip
from tuning.datasets.features.audio import segment_slice
from tuning.datasets.loaders.in_memory import checked_crop
from tuning.datasets.settings import FeatureSettings
from tuning.datasets.store.build import Prepared
from tuning.datasets.store.reader import scan

# The usual settings on standardised features and labels; epsilon is in standard deviations of the label.
SVM_C, SVR_EPSILON = 1.0, 0.1
Part = tuple[np.ndarray, np.ndarray]  # statistics [clips, statistics], targets [clips, targets]


def clip_statistics(values: np.ndarray) -> np.ndarray:
    """Statistics of a clip: [frames, features] -> [5 * features].

    Mean, standard deviation, 10th and 90th percentile of each feature, and the mean absolute difference between frames.
    The last three improve an SVR much on real music.
    """
    values = values.astype(np.float64)
    low, high = np.percentile(values, (10, 90), axis=0)
    changes = np.abs(np.diff(values, axis=0)).mean(axis=0) if len(values) > 1 else np.zeros(values.shape[1])
    return np.concatenate([values.mean(axis=0), values.std(axis=0), low, high, changes])


def svr_outputs(train: Part, statistics: np.ndarray) -> np.ndarray:
    """Predictions [clips, targets] of one SVR per target; SVR and scaling are fitted on the training clips."""
    known, targets = train
    outputs = []
    for target in targets.astype(np.float64).T:
        svr = make_pipeline(StandardScaler(), SVR(kernel="rbf", C=SVM_C, epsilon=SVR_EPSILON))
        model = TransformedTargetRegressor(svr, transformer=StandardScaler())
        outputs.append(model.fit(known, target).predict(statistics))
    return np.stack(outputs, axis=1)


def svm_classes(train: Part, statistics: np.ndarray) -> np.ndarray:
    """Predicted class indices [clips, 1], classes weighted by the inverse of their frequency."""
    known, targets = train
    model = make_pipeline(StandardScaler(), SVC(kernel="rbf", C=SVM_C, class_weight="balanced"))
    found: np.ndarray = model.fit(known, targets[:, 0].astype(int)).predict(statistics)
    return found[:, None]


def statistics_of(
    prepared: Prepared, clips: Sequence[Clip], features: FeatureSettings, sealed: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Statistics over the frames of each clip that a model with these settings sees, by the clip's id.

    With `features.normalise=group` those of each group's clips are standardised by themselves. Raises SealedError
    rather than open a shard with a sealed clip.
    """
    frames = checked_crop(features.num_frames, prepared.num_frames)
    found: dict[str, np.ndarray] = {}
    for ids, num_frames, stored in scan(prepared, {clip.id for clip in clips}, sealed):
        for clip, valid, values in zip(ids, num_frames.tolist(), stored, strict=True):
            found[clip] = clip_statistics(values[segment_slice(valid, frames, features.segment)])
    if features.normalise == "group":
        together: dict[str | None, list[str]] = defaultdict(list)
        for each in clips:
            together[each.group].append(each.id)
        for ids in together.values():
            found |= zip(ids, StandardScaler().fit_transform([found[clip] for clip in ids]), strict=True)
    return found


def part_of(statistics: Mapping[str, np.ndarray], clips: Sequence[Clip]) -> Part:
    """Statistics and targets of clips, in their order."""
    return np.stack([statistics[clip.id] for clip in clips]), np.array([clip.targets for clip in clips])


def fit_and_predict(
    prepared: Prepared, known: Sequence[Clip], test: Sequence[Clip], features: FeatureSettings, classes: bool
) -> np.ndarray:
    """Fit on the clips that a retrained winner knows and predict its test clips, in their order; in this process.

    `features` are the winner's. Returns class indices [clips, 1], or numbers [clips, targets].
    """
    found = statistics_of(prepared, [*known, *test], features)
    return (svm_classes if classes else svr_outputs)(part_of(found, known), part_of(found, test)[0])
