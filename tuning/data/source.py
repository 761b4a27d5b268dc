"""The data of one configuration as the shards that hold them, which any process on any machine can open."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from tuning.config.schema import Config
from tuning.datasets.loaders.generated import ExtendedData, GeneratedClips
from tuning.datasets.loaders.kfold import TextFolds, open_folds
from tuning.datasets.loaders.streaming import open_data
from tuning.datasets.loaders.text import TextData, Texts
from tuning.datasets.settings import Loading
from tuning.datasets.splits.split import Split
from tuning.datasets.store.augmentation_bank import Bank
from tuning.datasets.store.build import Prepared


@dataclass(frozen=True)
class DataSource:
    """Where the data of one configuration are.

    Args:
        prepared: shards of the recordings.
        split: clips to train on and to validate with; its test clips are sealed.
        loading: whether features are read into memory or streamed.
        bank: augmented versions of the training clips.
        texts: shards of their texts, if the model reads any.
        generated: folder of generated clips, if trials add any.
        by_group: whether trials normalise clips by groups.
    """

    prepared: Prepared
    split: Split
    loading: Loading
    bank: Bank
    texts: Prepared | None = None
    generated: str | None = None
    by_group: bool = False

    def open(self) -> Any:
        """Open the data in this process: `TrialData`, or folds if the split has inner folds.

        Raises:
            SealedError: a shard that would be opened holds a test clip.
        """
        others: list[Any] = []
        if self.texts is not None:
            wanted = [clip.id for clip in self.split.train + self.split.val]
            others.append(Texts.read(self.texts, wanted, {clip.id for clip in self.split.test}))
        if self.generated is not None:
            others.append(GeneratedClips.read(self.generated))
        opened = open_folds if self.split.inner else open_data
        return join(opened(self.prepared, self.split, self.loading, sys.maxsize, self.bank, self.by_group), *others)


def read_with_baseline(source: DataSource, config: Config) -> tuple[Any, dict[str, float]]:
    """Open recordings, and compute the metrics of a constant prediction: with inner folds the mean over them."""
    # Torch, which neither a refusal nor a finished search needs.
    from tuning.training.cross_validation import constant_baseline
    from tuning.training.tasks import task_of

    data, task = source.open(), task_of(config)
    if source.split.inner:
        return data, constant_baseline(task, data)
    return data, task.constant_baseline(data.train_targets, data.val_targets)


def join(data: Any, *others: Texts | GeneratedClips) -> Any:
    """Add texts and generated clips to data or folds."""
    for other in others:
        if isinstance(other, GeneratedClips):
            data = ExtendedData(data, other)
        else:
            data = TextData(data, other) if hasattr(data, "train_batches") else TextFolds(data, other)
    return data
