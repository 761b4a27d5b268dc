"""Check a search before anything of it is made: a run and its dry run refuse the same."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from tuning.config.errors import UserError
from tuning.config.space import Space
from tuning.data.plan import Plan, read_corpus, training_clips, with_augmentation, with_corpus
from tuning.data.remarks import with_file_remarks
from tuning.datasets import storage
from tuning.datasets.corpus import Corpus
from tuning.datasets.splits.split import Split
from tuning.experiment.directory import SearchFolder, refuse_differences, setting_differences
from tuning.experiment.reading import read_recorded
from tuning.experiment.recorded import space_of
from tuning.search.resources import check_resources
from tuning.search.shared_places import check_places


@dataclass(frozen=True)
class Checked:
    """A search that can be run, as far as that is known before its recordings are read.

    Args:
        plan: with the corpus's classes, and with augmentation on or off.
        corpus: its clips; those of a demo corpus that is missing as they would be made.
        split: of them.
        begun: the space that the search of this name was begun with, if there is one that the run would resume.
    """

    plan: Plan
    corpus: Corpus
    split: Split
    begun: Space | None


def check(plan: Plan) -> Checked:
    """Check places, name, resources, corpus and split of a search. Makes nothing.

    Raises:
        UserError: what the run would refuse; that its recordings are those that it was begun with is not looked at.
    """
    check_writable("storage", plan.run.storage)
    check_writable("data.prepared", plan.config.data.prepared)
    begun = _begun(plan.run.storage, plan.name) if not plan.run.fresh else None
    if begun is None:
        check_resources(plan.config)
    check_places(plan.config, plan.run.storage)
    corpus, split = read_corpus(plan.config, make=False)
    plan = with_corpus(plan, corpus)
    corpus = with_file_remarks(corpus, plan.config.data)
    plan = with_augmentation(plan, len(training_clips(split, plan.config)), begun)
    if begun is not None:
        refuse_differences(plan.name, setting_differences(begun, plan.space))
    return Checked(plan, corpus, split, begun)


def check_writable(setting: str, place: str) -> None:
    """Try to write into a folder, or into the one in which it would be made; nothing is left. Buckets are not tried.

    Raises:
        UserError: it can't be written to.
    """
    if storage.is_uri(place):
        return
    folder = Path(storage.absolute(place))
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"{setting}: expected a folder to write in, got '{place}' ({why})") from None


def _begun(place: str, name: str) -> Space | None:
    """The space of the search of that name, if there is one."""
    if not storage.is_uri(place):
        earlier = SearchFolder(place, name)
        return space_of(earlier) if earlier.exists else None
    try:
        content = storage.read_bytes(storage.below(place, name), "config.yaml")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"storage: expected a bucket to write in, got '{place}' ({why})") from None
    with tempfile.TemporaryDirectory() as folder:
        (file := Path(folder) / "config.yaml").write_bytes(content)
        return read_recorded(file)
