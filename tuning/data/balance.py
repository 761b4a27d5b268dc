"""How classes, or quadrants of regression targets, are spread over the parts of a split, and what to watch out for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tuning.config.schema import Config
from tuning.data.plan import Plan, read_corpus, with_corpus
from tuning.data.remarks import file_remarks
from tuning.datasets import is_demo
from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.splits.class_balance import ClassCount, class_balance
from tuning.datasets.splits.split import Split
from tuning.datasets.splits.stratification import quadrants

UNEVEN_ABOVE = 1.5  # largest class over smallest
PARTS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Balance:
    """Clips of each class in each part of a split.

    Args:
        corpus: the clips with their labels.
        split: who trains, validates and is sealed for the test.
        config: settings that all trials share, with the corpus's classes.
        parts: clips of each part; of regression with their quadrant as the label.
        counts: one entry for each class in each part that has clips.
        files: what is wrong with the files of recordings, a sentence each.
    """

    corpus: Corpus
    split: Split
    config: Config
    parts: Mapping[str, Sequence[Clip]]
    counts: Sequence[ClassCount]
    files: Sequence[str] = ()

    @property
    def is_classes(self) -> bool:
        """Whether classes are counted, not quadrants."""
        return self.config.task.name == "classification"

    @property
    def trained(self) -> list[ClassCount]:
        """The classes that training has clips of, the smallest first."""
        found = [count for count in self.counts if count.part == "train" and count.num_clips]
        return sorted(found, key=lambda count: count.num_clips)

    @property
    def hints(self) -> list[str]:
        """A sentence for each problem: files, uneven classes, missing classes, parts with a single speaker."""
        found = list(self.files)
        ratio = self.trained[-1].num_clips / self.trained[0].num_clips
        if ratio > UNEVEN_ABOVE and self.is_classes:
            weighted = "loss.class_weights=inverse"
            weighted += ", as it is set," if self.config.loss.class_weights == "inverse" else ""
            advice = f"{weighted} lets classes count alike, and val_uar ranks by all of them"
            found.append(f"classes are uneven in training, {ratio:.1f} to 1; {advice}")
        for part, name in PARTS.items():
            missing = [count.name for count in self.counts if count.part == part and not count.num_clips]
            if missing and self.is_classes:
                found.append(
                    f"{name} has no clips of {', '.join(missing)}: recall and F1 of that are unknown there, and UAR "
                    "is the mean over the others; choose other folds or another split.seed"
                )
            elif missing:
                found.append(f"{name} has no clips in the quadrant {'; '.join(missing)}")
        if len({clip.group for clip in self.parts["train"]}) == 1 and self.parts["train"][0].group is not None:
            found.append("training has one speaker or artist: what others do differently can't be learned from it")
        return found + [caution for caution in self.split.cautions() if caution not in self.split.notes]


def read_balance(plan: Plan) -> Balance:
    """Read a plan's corpus and count; nothing is written but a demo corpus that is not there yet.

    Raises:
        UserError: no such corpus, a wrong manifest, groups that cross splits.
    """
    corpus, split = read_corpus(plan.config)
    config = with_corpus(plan, corpus).config
    parts = split.parts() if config.task.name == "classification" else _by_quadrant(split, config)
    files = [] if is_demo(config.data.corpus) else file_remarks(corpus)
    return Balance(corpus, split, config, parts, class_balance(parts), files)


def _by_quadrant(split: Split, config: Config) -> dict[str, list[Clip]]:
    """The parts, with each clip's quadrant as its label."""
    clips = [clip for part in split.parts().values() for clip in part]
    targets = config.task.targets[:2]
    names = [
        ", ".join(f"{target} {'above' if quadrant >> bit & 1 else 'below'}" for bit, target in enumerate(targets))
        for quadrant in range(2 ** len(targets))
    ]
    name_of = {clip.id: names[q] for clip, q in zip(clips, quadrants(clips, config.split.quadrants), strict=True)}
    return {name: [replace(clip, label=name_of[clip.id]) for clip in part] for name, part in split.parts().items()}
