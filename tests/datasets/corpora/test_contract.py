"""What every corpus with a layout does: a new line in `CORPORA` needs a case in `tests/helpers/corpora.py`."""

import json
import subprocess
import sys
from pathlib import PurePosixPath

import numpy as np
import pytest

from tests.helpers.corpora import CASES, TARGETS, in_lower_case, load
from tests.helpers.layout import write_tree
from tuning.data.plan import make_plan, read_corpus
from tuning.datasets import CORPORA
from tuning.datasets.corpus import load_classes, load_corpus
from tuning.datasets.settings import DataSettings, SplitSettings
from tuning.datasets.splits.split import split_clips

MADE = {"demo", "demo_bimodal", "demo_speech"}
NUMBERS = [name for name, case in CASES.items() if not case.classes]

each = pytest.mark.parametrize("name", CASES)


def test_every_corpus_has_a_case():
    assert set(CASES) == set(CORPORA) - MADE


@pytest.fixture
def root(tmp_path, name):
    return CASES[name].write(tmp_path / "the_corpus")


@each
def test_clips_are_the_recordings_with_their_labels_and_groups(name, root):
    case, corpus = CASES[name], load(name, root)
    assert (corpus.name, corpus.root) == (name, str(root))
    ids = [clip.id for clip in corpus.clips]
    assert len(ids) == len(set(ids)) == case.num_clips
    assert all((root / clip).is_file() and str(PurePosixPath(clip)) == clip for clip in ids)
    groups = {clip.group for clip in corpus.clips}
    assert len(groups - {None}) == case.num_groups and (None in groups) == (case.num_groups == 0)
    if case.classes:
        assert corpus.classes == list(case.classes) == sorted({clip.label for clip in corpus.clips})
        assert all(clip.targets == (case.classes.index(clip.label),) for clip in corpus.clips)
    else:
        targets = np.array([clip.targets for clip in corpus.clips])
        assert targets.shape == (case.num_clips, 2) and np.abs(targets).max() <= 1 and (targets.std(axis=0) > 0).all()


@each
def test_a_uri_reads_like_the_folder_and_a_second_time_like_the_first(name, root):
    corpus, far = load(name, root), load(name, f"file://{root}")
    assert far.root == f"file://{root}"
    assert far.clips == corpus.clips == load(name, root).clips
    with pytest.raises(ValueError, match=r"^data\.(root|manifest): .*file://.*nowhere"):
        load(name, f"file://{root}/nowhere")


@pytest.mark.parametrize("name", NUMBERS)
def test_targets_come_in_the_order_that_is_asked_for(name, root):
    both, swapped, one = (load(name, root, targets) for targets in (TARGETS, TARGETS[::-1], TARGETS[1:]))
    assert [clip.targets[::-1] for clip in both.clips] == [clip.targets for clip in swapped.clips]
    assert [clip.targets[1:] for clip in both.clips] == [clip.targets for clip in one.clips]
    with pytest.raises(ValueError, match=r"task.targets: .*'valance'.*did you mean 'valence'"):
        load(name, root, ("valance", "arousal"))


@each
def test_numbers_are_not_read_as_classes_nor_classes_as_numbers(name, root):
    data = DataSettings(corpus=name, root=str(root), **CASES[name].settings)
    if CASES[name].classes:
        with pytest.raises(ValueError, match=rf"task.name: expected classification for data.corpus={name}"):
            load_corpus(data, list(TARGETS))
    elif name == "manifest":
        with pytest.raises(ValueError, match=r"data.label_column: expected the column with each recording's class"):
            load_classes(data, None, {}, drop_others=False)
    elif name != "merge":  # which has both
        with pytest.raises(ValueError, match=rf"task.name: expected regression for data.corpus={name}"):
            load_classes(data, None, {}, drop_others=False)


@each
def test_what_is_missing_of_the_layout_is_named_with_what_is_there(name, root):
    if not CASES[name].part:
        pytest.skip("recordings are found in a folder of any name")
    part = root / CASES[name].part
    renamed = part.rename(part.with_name(f"x{part.name}"))
    with pytest.raises(ValueError, match=rf"^data\.(root|manifest): .*{part.name}.*{renamed.name}"):
        load(name, root)


@each
def test_a_label_or_name_that_is_none_is_told_with_its_place(name, root):
    CASES[name].damage(root)
    with pytest.raises(ValueError, match=CASES[name].wrong) as caught:
        load(name, root)
    assert str(caught.value).startswith(("data.root: ", "data.target"))


@each
def test_a_wrong_root_gets_the_nearest_name(name, root):
    with pytest.raises(ValueError, match=r"data.root: expected a folder, .*\(no such folder\); did you mean 'the_corp"):
        load(name, root.with_name("the_corpsu"))
    if name != "manifest":
        with pytest.raises(ValueError, match=rf"; did you mean data.root='{root}'\?$"):
            load(name, root.parent)
    with pytest.raises(ValueError, match=rf"data.root: expected the corpus's folder or URI \(data.corpus={name}\)"):
        load(name, None)


@each
def test_a_wrong_root_is_told_which_layouts_are_known_and_what_was_found(name, tmp_path):
    write_tree(tmp_path, {"unrelated/notes.txt": "", "README.md": "", ".DS_Store": b""})
    with pytest.raises(
        ValueError, match=r"^data\.(root: expected|manifest: no file) .*, found README.md, unrelated$"
    ) as told:
        load(name, tmp_path)
    message = str(told.value)
    assert str(tmp_path) in message and CASES[name].known
    assert all(known in message for known in CASES[name].known) and "lyrics" not in message


IN_LOWER_CASE = "folders in lower case"
OTHERS = [(name, other) for name, case in CASES.items() for other in (*case.layouts, IN_LOWER_CASE)]


@pytest.mark.parametrize(("name", "other"), OTHERS)
def test_other_layouts_of_the_same_clips_read_alike(name, root, other, tmp_path):
    writers = {**CASES[name].layouts, IN_LOWER_CASE: lambda root: in_lower_case(CASES[name].write(root))}
    other_root = writers[other](tmp_path / "other")
    corpora = load(name, root), load(name, other_root)
    assert all((other_root / clip.id).is_file() for clip in corpora[1].clips)
    assert all((other_root / clip.text).is_file() for clip in corpora[1].clips if clip.text is not None)
    first, second = (
        {PurePosixPath(c.id).stem: (c.targets, c.group, c.fold, c.split, c.label) for c in corpus.clips}
        for corpus in corpora
    )
    assert first == second
    assert load(name, f"file://{other_root}").clips == corpora[1].clips
    assert [corpus.notes for corpus in corpora] == [[], []]


SPEAKER_FOLDS = {  # corpus -> the speakers of five folds, in the order of their names and as even as can be
    "cremad": [range(1001, 1020), range(1020, 1038), range(1038, 1056), range(1056, 1074), range(1074, 1092)],
    "emodb": [("03", "08"), ("09", "10"), ("11", "12"), ("13", "14"), ("15", "16")],
    "iemocap": [(f"Ses0{session}F", f"Ses0{session}M") for session in range(1, 6)],
    "ravdess": [[f"{actor:02d}" for actor in range(first, min(first + 5, 25))] for first in range(1, 25, 5)],
}


@pytest.mark.parametrize("name", SPEAKER_FOLDS)
def test_speakers_are_dealt_into_folds_by_name(name, root):
    clips = load(name, root, folds="speakers_5").clips
    found = {fold: {clip.group for clip in clips if clip.fold == fold} for fold in sorted({c.fold for c in clips})}
    assert found == {str(fold): set(map(str, who)) for fold, who in enumerate(SPEAKER_FOLDS[name], start=1)}
    for wrong in ("speakers_1", f"speakers_{CASES[name].num_groups + 1}"):
        with pytest.raises(
            ValueError, match=rf"data.folds: .* K from 2 to {CASES[name].num_groups} folds, got '{wrong}'"
        ):
            load(name, root, folds=wrong)


@pytest.mark.parametrize("name", SPEAKER_FOLDS)
def test_one_speaker_after_the_other_is_left_out_by_one_command(name, root):
    command = [f"data.corpus={name}", f"data.root={root}", "space=ser", "task.classes=null", "data.folds=speakers"]
    clips = load(name, root).clips
    speakers = sorted({str(clip.group) for clip in clips})
    for speaker in speakers[:2] + speakers[-1:]:
        _, split = read_corpus(make_plan([*command, f"split.test_fold={speaker}"]).config)
        assert [clip.id for clip in split.test] == [clip.id for clip in clips if clip.group == speaker]
        assert {clip.group for clip in split.val} == {speakers[(speakers.index(speaker) + 1) % len(speakers)]}


@each
def test_folds_are_refused_or_named(name, root):
    wanted = "one of" if CASES[name].named_folds else f"nothing for data.corpus={name}"
    with pytest.raises(ValueError, match=rf"data.folds: expected {wanted}.*got 'thirds'"):
        load(name, root, folds="thirds")


@each
def test_lists_of_folds_are_refused_where_none_are_read(name, root):
    with pytest.raises(ValueError, match=r"^data.fold_lists: expected nothing .*got 'lists'"):
        load(name, root, fold_lists="lists")


@each
def test_its_groups_stay_on_one_side_of_a_grouped_split(name, root):
    clips = load(name, root).clips
    if not CASES[name].num_groups:
        pytest.skip("the corpus names no groups")
    split = split_clips(clips, SplitSettings(method="grouped", val_share=0.25, test_share=0.25))
    groups = [{clip.group for clip in part} for part in split.parts().values()]
    assert all(groups) and sum(map(len, groups)) == CASES[name].num_groups
    assert sum(map(len, split.parts().values())) == len(clips)


PROGRAM = """
import json, sys
from tuning.datasets.corpus import load_corpus
from tuning.datasets.settings import DataSettings
import tuning.datasets.demo.music, tuning.datasets.demo.songs, tuning.datasets.demo.speech
import tuning.datasets.features.audio, tuning.datasets.features.frames, tuning.datasets.features.text_file
import tuning.datasets.splits.class_balance, tuning.datasets.splits.split, tuning.datasets.store.build
for name, root in json.load(sys.stdin):
    try:
        load_corpus(DataSettings(corpus=name, root=root), ["valence"])
    except ValueError as error:
        assert str(error).startswith(("data.root: expected", "data.manifest: no file")), error
    else:
        raise AssertionError(name)
    heavy = {"ray", "torch", "pandas", "sklearn", "transformers"} & set(sys.modules)
    assert not heavy, (name, heavy)
"""


def test_a_wrong_root_is_told_before_anything_heavy_is_imported(tmp_path):
    wrong = [(name, root) for name in CASES for root in ("/no/such/place", str(tmp_path))]
    done = subprocess.run([sys.executable, "-c", PROGRAM], input=json.dumps(wrong), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
