"""Everything that the trials of a space read, computed once under a lock and found again by its fingerprint.

Four stages: the features of every recording, in as many variants as the space has, the texts that belong to them, the
bank of augmented training clips, and the clips that a GAN makes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from tuning.config.errors import UserError
from tuning.config.schema import NOT_IDENTITY, Config
from tuning.config.space import Space
from tuning.data.generated_clips import SHARE, prepare_synthetic
from tuning.data.generated_clips import VERSION as GAN_VERSION
from tuning.data.keys import DataKey, data_key, data_variants, feature_variants, features_key, searched_effects, stored
from tuning.data.plan import read_corpus
from tuning.data.text import VERSION as TEXT_VERSION
from tuning.data.text import prepare_texts, text_key, text_of, text_variants
from tuning.datasets import storage
from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.features import library_versions as versions
from tuning.datasets.features.waveform_effects import AUGMENTATION_VERSION
from tuning.datasets.hashing import digest_files, digest_of
from tuning.datasets.loaders.generated import Synthetic, WithSynthetic
from tuning.datasets.loaders.kfold import FoldsWithText, open_folds
from tuning.datasets.loaders.streaming import RESIDENT_SHARE, open_data
from tuning.datasets.loaders.text import Texts, WithText
from tuning.datasets.splits.split import Split, cells, check_duplicates, inner_folds, without
from tuning.datasets.store.augmentation_bank import Bank, prepare_bank
from tuning.datasets.store.build import Prepared, prepare
from tuning.datasets.store.quarantine import QuarantineError
from tuning.datasets.store.shard_index import EXTRACTION_VERSION, TRIMMING, TRIMMING_VERSION
from tuning.models.pretrained import snapshot_of
from tuning.training.cross_validation import constant_baseline
from tuning.training.encoders import image_variants, snapshots
from tuning.training.tasks import task_of

if TYPE_CHECKING:
    from tuning.datasets.loaders.in_memory import TrialData
    from tuning.experiment.directory import SearchFolder

SHORT = 8  # letters of a digest that tells one clip from what it was

# Clips that are done, and all of them: called before the first is made, and after each shard.
Progress = Callable[[int, int], None]


@dataclass
class DataModule:
    """Features, texts, augmented and generated clips of a corpus, as the trials of a space read them.

    `prepare` makes what is missing, `share` puts it where trials find it, `for_config` gives what one configuration
    trains and validates on, `for_test` what it is retrained and tested on. Test clips lie in shards of their own,
    which nothing but `for_test` opens.

    Args:
        space: whose trials read it; settings of the corpus and the split are those that all trials share.
        corpus: the clips with their labels.
        split: who trains, validates and is sealed for the test; once features are prepared, without the clips that
            can't be used, and with the inner folds that the space asks for.
        features: shards of each variant of features, by `features_key`.
        texts: shards of each variant of texts, by `text_key`.
        banks: shards of augmented training clips, by `data_key`.
    """

    space: Space
    corpus: Corpus
    split: Split
    features: dict[str, Prepared] = field(default_factory=dict)
    texts: dict[str, Prepared] = field(default_factory=dict)
    banks: dict[DataKey, Bank] = field(default_factory=dict)

    @classmethod
    def read(cls, space: Space, config: Config | None = None) -> DataModule:
        """Read the corpus of a space, or of one of its configurations, and deal the split; nothing is prepared.

        Raises:
            UserError: no such corpus, a wrong manifest, groups that cross splits.
        """
        return cls(space, *read_corpus(config or space.fixed()))

    @classmethod
    def of_search(cls, folder: SearchFolder, space: Space, config: Config | None = None) -> DataModule:
        """The same with the split that a search was begun with, once it is found to read what it read then.

        Raises:
            UserError: as `read`; another corpus, or other settings, than the search's.
        """
        if config is not None:  # where its recordings and features lie may have changed since the search was begun
            lie = {f"data.{name}": value for name, value in config.data.model_dump().items()}
            settings = space.settings | {path: value for path, value in lie.items() if path in NOT_IDENTITY}
            space = Space(settings, space.distributions)
        data = cls.read(space, config)
        data.split = folder.split_begun_with(space, data.identity(), data.corpus, data.split)
        return data

    @property
    def config(self) -> Config:
        """The settings that all trials share."""
        return self.space.fixed()

    @property
    def variants(self) -> list[Prepared]:
        """Everything that is prepared of each recording: its features and texts in each variant."""
        return [*self.features.values(), *self.texts.values()]

    def identity(self) -> dict[str, Any]:
        """What the trials read, apart from their settings and the split, as JSON keeps it.

        `corpus`: recordings by content, with their labels, groups and folds; `clips`: the same of each. `lyrics`: where
        models read texts, theirs by content. `encoders`: what each pretrained encoder holds that a trial may load.
        `libraries`, `methods`: versions of those, and of our own code, whose numbers are in what is prepared.

        Raises:
            UserError: the folder for prepared features can't be used.
        """
        space = self.space
        clips = sorted(self.corpus.clips, key=lambda clip: clip.id)
        features, texts = feature_variants(space).values(), text_variants(space).values()
        recordings = self._digests([clip.id for clip in clips])
        labels = {clip.id: [*clip.targets, clip.group, clip.fold, clip.split] for clip in clips}
        lines = (json.dumps([clip.id, recordings.get(clip.id), *labels[clip.id]]) for clip in clips)
        identity: dict[str, Any] = {"corpus": digest_of(*lines), "num_clips": len(clips)}
        # By clip, too, in short, so that what is another one can be named.
        of_clips = {
            clip.id: {"recording": recordings.get(clip.id, "")[:SHORT], "labels": _short(labels[clip.id])}
            for clip in clips
        }
        if texts:
            of_file = self._digests(sorted({text_of(clip) for clip in clips}))
            words = {clip.id: [file := text_of(clip), of_file.get(file)] for clip in clips}
            identity["lyrics"] = digest_of(*(json.dumps([clip, *read]) for clip, read in words.items()))
            for clip, read in words.items():
                of_clips[clip]["lyrics"] = _short(read)
        identity["clips"] = of_clips
        speech = sorted({str(f.encoder) for f in features if f.name == "encoder"})
        identity["encoders"] = {f"features.encoder={encoder}": snapshot_of(encoder) for encoder in speech}
        identity["encoders"] |= snapshots([*texts, *image_variants(space)])
        read_as = {config.model.text_input for config in texts if config.model.text_input is not None}
        libraries = [*map(versions.of_features, features), *map(versions.of_texts, read_as)]
        identity["libraries"] = {name: version for found in libraries for name, version in found.items()}
        identity["methods"] = self._methods()
        return identity

    def _methods(self) -> dict[str, str]:
        """Versions of our own code whose numbers trials read, by what it makes."""
        made = {"features": EXTRACTION_VERSION}
        if any(features.trim_db is not None for features in feature_variants(self.space).values()):
            made[TRIMMING] = TRIMMING_VERSION
        if searched_effects(self.space):
            made["augmented clips"] = AUGMENTATION_VERSION
        if text_variants(self.space):
            made["texts"] = TEXT_VERSION
        if self.space.largest(SHARE) > 0:
            made["generated clips"] = GAN_VERSION
        return {name: str(version) for name, version in made.items()}

    def _digests(self, files: list[str]) -> dict[str, str]:
        data = self.config.data
        try:
            return digest_files(self.corpus.root, files, data.prepared, data.verify)[0]
        except OSError as error:
            raise UserError(f"data.prepared: expected a folder to write in, got '{data.prepared}' ({error})") from None

    def prepare(self, on_progress: Progress) -> DataModule:
        """Make features, texts and augmented clips that are missing; itself. Ray runs, or starts by `on_progress`.

        Raises:
            UserError: too many recordings can't be used, or what `prepare_features` says of the split.
        """
        self.prepare_features(on_progress)
        self.prepare_banks(on_progress)
        return self

    def prepare_features(self, on_progress: Progress) -> None:
        """Make sure that every variant of features and texts lies in shards; the split leaves out what can't be used.

        With everything in place Ray is not needed.

        Raises:
            UserError: too many recordings can't be used, one recording stands in two splits, a split is left empty,
                the clips don't allow so many folds.
        """
        clip_cells, data = cells(self.corpus.clips, self.split), self.config.data
        try:
            with _lock(data.prepared):
                for key, wanted in feature_variants(self.space).items():
                    self.features[key] = prepare(self.corpus, clip_cells, wanted, wanted.num_frames, data, on_progress)
                for key, variant in text_variants(self.space).items():
                    self.texts[key] = prepare_texts(self.corpus, clip_cells, variant, on_progress)
        except QuarantineError as error:
            raise UserError(str(error)) from error
        self.split = self._usable_split()

    def _usable_split(self) -> Split:
        """The split without quarantined clips; the others are dealt into inner folds, unless they were before."""
        split, settings = self.split, self.config.split
        try:
            for variant in self.variants:
                check_duplicates(split, variant.digests)
                split = without(split, [clip for clip, _ in variant.quarantine])
            if settings.inner_folds is not None and not split.inner:
                split = inner_folds(split, settings)
        except ValueError as error:
            raise UserError(str(error)) from error
        return split

    def prepare_banks(self, on_progress: Progress) -> None:
        """Make sure that every bank of augmented training clips that the trials draw from lies in shards.

        With inner folds it holds the validation clips, too, which train in other folds; test clips never.
        """
        folds = self.config.split.inner_folds is not None
        self.banks = self._banks_of(self.split.train + self.split.val if folds else self.split.train, on_progress)

    def _banks_of(self, clips: list[Clip], on_progress: Progress) -> dict[DataKey, Bank]:
        effects = searched_effects(self.space)
        if not effects:
            return {}
        clip_cells, data = cells(self.corpus.clips, self.split), self.config.data
        sealed = [clip.id for clip in self.split.test]
        longest = {key: settings.num_frames for key, settings in feature_variants(self.space).items()}
        found: dict[DataKey, Bank] = {}
        with _lock(data.prepared):
            for key, variant in data_variants(self.space).items():
                features, frames = stored(variant), longest[key.features]
                augment = variant.augment
                found[key] = prepare_bank(
                    self.corpus, clip_cells, clips, sealed, features, frames, data, augment, effects, on_progress
                )
        return found

    def prepare_generated(self, on_begin: Callable[[], None] = lambda: None) -> dict[Any, str]:
        """Make sure that every GAN that the trials draw from is trained; the folders of their clips by key.

        `on_begin` is called for each that is to be trained. Ray is running.
        """
        if self.space.largest(SHARE) == 0:
            return {}
        wanted = {key.generated: variant for key, variant in data_variants(self.space).items()}

        def make(variant: Config) -> str:
            return prepare_synthetic(self.features[features_key(stored(variant))], variant, self.split, on_begin)

        with _lock(self.config.data.prepared), ThreadPoolExecutor(len(wanted)) as pool:  # of tasks that wait for Ray
            return dict(zip(wanted, pool.map(make, wanted.values()), strict=True))

    def share(self) -> tuple[dict[DataKey, list[Any]], dict[str, float]]:
        """Put what trials read into Ray's object store: references by `data_key`, and the constant predictor's figures.

        `fetch` reads them. With `split.inner_folds` the data are `loaders.kfold.Folds`, and the figures the mean over
        folds.

        Raises:
            SealedError: a shard that would be opened holds a test clip.
            UserError: a bank that does not fit into memory.
        """
        import ray

        config, variants = self.config, data_variants(self.space)
        parts: dict[Any, Any] = {}
        baseline: dict[str, float] = {}
        store_bytes = int(ray.cluster_resources().get("object_store_memory", 0))
        texts = {key: self._texts(key, store_bytes) for key in text_variants(self.space)}
        store_bytes -= sum(text.num_bytes for text in texts.values())
        num_kinds = len({key.clips for key in variants})
        task = task_of(config)
        for key, variant in variants.items():
            if key.clips in parts:
                continue
            try:
                data = self._clips(variant, self.banks.get(key), store_bytes // num_kinds)
                parts[key.clips] = ray.put(data)
                if not baseline and config.split.inner_folds is not None:
                    baseline = constant_baseline(task, data)
                elif not baseline:
                    baseline = task.constant_baseline(data.train_targets, data.val_targets)
            except ValueError as error:
                raise UserError(str(error)) from error
        parts |= {key: ray.put(text) for key, text in texts.items()}
        parts |= {key: ray.put(Synthetic.read(folder)) for key, folder in self.prepare_generated().items()}
        return {
            key: [parts[name] for name in (key.clips, key.text, key.generated) if name in parts] for key in variants
        }, baseline

    def for_config(self, config: Config) -> Any:
        """What a configuration's trial reads, in this process; folds with `split.inner_folds`."""
        others: list[Any] = []
        if key := text_key(config):
            others.append(self._texts(key, sys.maxsize))
        if config.augment.synthetic_share > 0:
            others.append(Synthetic.read(prepare_synthetic(self._features_of(config), config, self.split)))
        return joined(self._clips(config, self.banks.get(data_key(config)), sys.maxsize), *others)

    def for_test(self, config: Config, on_progress: Progress) -> TrialData:
        """What a configuration is retrained and tested on: the clips of training and validation, with their bank, and
        the test clips in validation's place.

        Generated clips are those that the search drew from: their GAN saw the search's training clips alone.
        """
        from tuning.datasets.loaders.in_memory import ResidentData
        from tuning.datasets.store.reader import FeatureStatistics, read_part, read_versions

        split, variant = self.split, self._features_of(config)
        known, sealed = split.train + split.val, {clip.id for clip in split.test}
        bank = self._banks_of(known, on_progress).get(data_key(config), {})
        train = read_part(variant, known, sealed)
        test = read_part(variant, split.test, sealed=())
        statistics = FeatureStatistics.of([(train.num_frames, train.features)])
        versions_of = {effect: read_versions(made, train.ids.tolist(), sealed) for effect, made in bank.items()}
        data = ResidentData(train, test, statistics, variant.num_frames, versions_of)
        others: list[Any] = []
        if key := text_key(config):
            others.append(Texts.read(self.texts[key], {clip.id for clip in known + split.test}, sealed=()))
        if config.augment.synthetic_share > 0:
            on_progress(0, 1)
            others.append(Synthetic.read(prepare_synthetic(variant, config, split)))
        found: TrialData = joined(data, *others)
        return found

    def _features_of(self, config: Config) -> Prepared:
        return self.features[features_key(stored(config))]

    def _clips(self, config: Config, bank: Bank | None, store_bytes: int) -> Any:
        """The recordings of a configuration, in memory where they fit into the bytes."""
        opened = open_data if config.split.inner_folds is None else open_folds
        return opened(self._features_of(config), self.split, config.data.loading, store_bytes, bank)

    def _texts(self, key: str, store_bytes: int) -> Texts:
        """The texts of train and validation.

        Raises:
            SealedError: a shard that would be opened holds a test clip.
            UserError: they do not fit into the bytes.
        """
        wanted = [clip.id for clip in self.split.train + self.split.val]
        texts = Texts.read(self.texts[key], wanted, {clip.id for clip in self.split.test})
        if texts.num_bytes > RESIDENT_SHARE * store_bytes:
            raise UserError(
                f"model.text_cache: expected states of texts that fit into half of the object store "
                f"({store_bytes / 1e9:.2g} GB), got {texts.num_bytes / 1e9:.2g} GB; fewer model.max_tokens take less, "
                "and with model.text_cache=false they are computed at each step"
            )
        return texts


def fetch(parts: list[Any]) -> Any:
    """What `DataModule.share` put there for one `data_key`, in a process that reads it."""
    import ray

    return joined(*ray.get(parts))


def _short(values: list[Any]) -> str:
    return digest_of(json.dumps(values))[:SHORT]


def joined(data: Any, *others: Texts | Synthetic) -> Any:
    """Data, or folds, with the texts of their clips; with a GAN's clips among those to train on."""
    for other in others:
        if isinstance(other, Synthetic):
            data = WithSynthetic(data, other)
        else:
            data = WithText(data, other) if hasattr(data, "train_batches") else FoldsWithText(data, other)
    return data


@contextmanager
def _lock(prepared: str) -> Iterator[None]:
    """One preparation at a time in a local folder; shards in a bucket are whole or absent, and named by content."""
    if storage.is_uri(prepared):
        yield
        return
    Path(prepared).mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(Path(prepared) / ".lock"):
        yield
