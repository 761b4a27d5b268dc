"""`tuning init`: what it guesses of a table, and that a search reads what it writes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.command import run
from tests.helpers.tiny_whisper import write_whisper
from tuning.cli.app import main
from tuning.data.plan import make_plan, planned_points
from tuning.data.proposal import SPACES


def write(root, header, rows, where=""):
    root.mkdir(exist_ok=True)
    (root / "labels.csv").write_text("\n".join([header, *rows]))
    for row in rows:
        file = root / where / row.split(header[4] if header.startswith("file") else ",")[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return str(root / "labels.csv")


def of_classes(count, speakers=12):
    return [f"{n}.wav,{('sad', 'happy', 'angry')[n // speakers % 3]},{n % speakers}" for n in range(count)]


def init(capsys, monkeypatch, tmp_path, *words):
    monkeypatch.chdir(tmp_path)
    assert main(["init", *words]) == 0
    return capsys.readouterr().out, make_plan(["space=labels.yaml"])


def test_classes_of_speakers(capsys, monkeypatch, tmp_path):
    table = write(tmp_path / "data", "file,emotion,speaker", of_classes(720))
    output, plan = init(capsys, monkeypatch, tmp_path, table)
    config = plan.config
    data = config.data
    assert (config.task.name, data.label_column, data.group_column) == ("classification", "emotion", "speaker")
    assert (config.search.metric, config.loss.name, config.split.inner_folds) == ("val_uar", "cross_entropy", None)
    assert "corpus    720 clips, 12 speakers or artists; classification of angry, happy, sad" in output
    assert "space     ser_ensemble: 4 trials of at most 60 epochs" in output and "\ntime      about " in output
    text = (tmp_path / "labels.yaml").read_text()
    assert "# split     grouped: " in text and "# metric    val_uar: the mean recall" in text
    assert "# time      about " in text
    # The search of the file is that of the space it was made from, on this corpus.
    names = ("corpus", "root", "manifest", "label_column", "group_column")
    words = [f"data.{name}={getattr(data, name)}" for name in names]
    from_space = make_plan(["space=ser_ensemble", *words])
    assert list(planned_points(plan.space, config)) == list(planned_points(from_space.space, from_space.config))
    assert plan.space.distributions == from_space.space.distributions
    assert "4 trials (random" in run("space=labels.yaml", "--dry-run")


def test_numbers_of_artists_with_few_clips(capsys, monkeypatch, tmp_path):
    rows = [f"{n}.mp3;{1 + n % 9};{1 + n // 3 % 9};artist {n % 40}" for n in range(400)]
    table = write(tmp_path / "data", "path;Valence;Arousal;artist", rows, "audio")
    for row in rows:
        (tmp_path / "data" / "audio" / row.split(";")[0]).touch()
    output, plan = init(capsys, monkeypatch, tmp_path, table)
    config = plan.config
    assert config.task.targets == ["valence", "arousal"] and config.data.target_columns == ["Valence", "Arousal"]
    assert config.data.target_range == (1, 9) and config.data.file_column == "path"
    assert config.data.root == str(tmp_path / "data" / "audio") and config.data.manifest == "../labels.csv"
    assert (config.split.inner_folds, config.search.metric) == (4, "val_loss")
    assert "space     crnn_statistics: 10 trials" in output and "cross-validation over 4 inner folds" in output
    assert "split     grouped" in output and "note" not in output


def test_a_column_of_texts_beside_numbers_is_no_label(capsys, monkeypatch, tmp_path):
    rows = [f"{n}.wav,{n % 7 / 7},{n % 5 / 5},{('pop', 'rock')[n % 2]}" for n in range(1200)]
    table = write(tmp_path / "data", "file,valence,arousal,genre", rows)
    assert init(capsys, monkeypatch, tmp_path, table)[1].config.task.name == "regression"


def test_a_setting_that_follows_another_goes_on_following_it(capsys, monkeypatch, tmp_path):
    rows = [f"{n}.wav,{n % 7 / 7},{n % 5 / 5}" for n in range(1200)]
    output, plan = init(capsys, monkeypatch, tmp_path, write(tmp_path / "data", "file,valence,arousal", rows))
    assert "space     crnn:" in output and "note      no speaker or artist is known" in output
    for point in planned_points(plan.space, plan.config)[:3]:
        model = plan.space.config(point).model
        assert model.dense_dropout == model.lstm_dropout == point["model.lstm_dropout"]


def test_published_folds_and_parts_are_taken(capsys, monkeypatch, tmp_path):
    rows = [f"{row},{n % 12 % 5 + 1}" for n, row in enumerate(of_classes(360))]
    output, plan = init(capsys, monkeypatch, tmp_path, write(tmp_path / "data", "file,emotion,speaker,fold", rows))
    assert plan.config.data.fold_column == "fold" and "split     folds: " in output and "tuning folds" in output
    (tmp_path / "labels.yaml").unlink()
    part = ["train"] * 8 + ["val"] * 2 + ["test"] * 2
    rows = [f"{row},{part[n % 12]}" for n, row in enumerate(of_classes(360))]
    output, plan = init(capsys, monkeypatch, tmp_path, write(tmp_path / "data", "file,emotion,speaker,split", rows))
    assert plan.config.data.split_column == "split" and plan.config.split.inner_folds is None


def test_settings_of_the_command_line_take_the_place_of_guesses(capsys, monkeypatch, tmp_path):
    table = write(tmp_path / "data", "file,mood,who", of_classes(720))
    words = ("data.label_column=mood", "data.group_column=who", "search.num_trials=2")
    _, plan = init(capsys, monkeypatch, tmp_path, table, *words)
    assert (plan.config.data.label_column, plan.config.data.group_column, plan.total) == ("mood", "who", 2)


@pytest.mark.parametrize(
    ("task", "count", "space"),
    [
        ("classification", 400, "ser_ensemble"), ("classification", 1500, "ser_ensemble"),
        ("classification", 5000, "ser_demo"), ("classification", 20_000, "ser"),
        ("regression", 400, "crnn_statistics"), ("regression", 1500, "crnn"),
        ("regression", 5000, "crnn_full"), ("regression", 20_000, "crnn_full"),
    ],
)  # fmt: skip
def test_the_table_of_the_docs_is_what_is_proposed(task, count, space):
    assert next(name for most, name in SPACES[task] if count <= most) == space
    page = (Path(__file__).parents[2] / "docs" / "corpora.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith(f"| {count:,} |"))
    assert f"`{space}`" in row.split("|")[2 if task == "classification" else 3]


def test_an_encoder_that_is_given_leads_to_its_space_and_is_recommended_where_it_is_not(capsys, monkeypatch, tmp_path):
    table = write(tmp_path / "data", "file,emotion,speaker", of_classes(720))
    output, _ = init(capsys, monkeypatch, tmp_path, table)
    assert "encoder   a small head on a pretrained encoder had for 1,440 clips" in output
    (tmp_path / "labels.yaml").unlink()
    write_whisper(encoder := tmp_path / "encoder", frames=1500)
    output, plan = init(capsys, monkeypatch, tmp_path, table, f"features.encoder={encoder}")
    assert "space     ser_encoder: 8 trials" in output and "encoder   " not in output
    assert plan.config.features.encoder == str(encoder) and plan.config.features.encoder_pooling == "mean_std"
    numbers = write(
        tmp_path / "songs", "file,valence,arousal,artist", [f"{n}.wav,0.1,0.{n % 9},{n}" for n in range(700)]
    )
    (tmp_path / "labels.yaml").unlink()
    output, plan = init(capsys, monkeypatch, tmp_path, numbers, f"features.encoder={encoder}")
    assert "space     music_encoder: 8 trials" in output
    assert plan.config.features.pooled_seconds == 30  # of Whisper; the space hears a minute


def test_functionals_of_a_voice_lead_to_a_space_that_takes_them(capsys, monkeypatch, tmp_path):
    table = write(tmp_path / "data", "file,emotion,speaker", of_classes(720))
    output, plan = init(capsys, monkeypatch, tmp_path, table, "features.name=egemaps")
    assert "space     ser_encoder" in output and plan.config.features.name == "egemaps"


def test_versions_of_clips_take_the_time_that_is_told(capsys, monkeypatch, tmp_path):
    table = write(tmp_path / "data", "file,emotion,speaker", of_classes(1440))
    write_whisper(encoder := tmp_path / "encoder", frames=1500)
    minutes = []
    for word in ("augment.enabled=true", "augment.enabled=false"):
        output, _ = init(capsys, monkeypatch, tmp_path, table, f"features.encoder={encoder}", word)
        minutes.append(int(re.search(r"time      about (\d+) minutes", output)[1]))
        (tmp_path / "labels.yaml").unlink()
    assert minutes[0] > 2 * minutes[1]


@pytest.mark.parametrize(
    ("header", "words", "message"),
    [
        ("what,emotion", (), "data.file_column: expected the column with each recording's path, got none"),
        ("file,some,other", (), "data.label_column: expected a column of classes (label, emotion or class) or of"),
        ("file,file", (), "expected columns of different names"),
        ("file,emotion", ("optim.learning_rat=1",), "did you mean 'learning_rate'"),
    ],
)
def test_what_can_not_be_told_is_asked(capsys, tmp_path, monkeypatch, header, words, message):
    monkeypatch.chdir(tmp_path)
    cells = ["a.wav" if name == "file" else name[0] for name in header.split(",")]
    rows = [",".join([*cells[:1], *(f"{cell}{n}" for cell in cells[1:])]) for n in range(4)]
    (tmp_path / "labels.csv").write_text("\n".join([header, *rows]))
    assert main(["init", "labels.csv", *words]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "labels.yaml").exists()


def test_wrong_words_and_a_file_that_is_there(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, message in (
        ([], "expected one CSV file that lists recordings and their labels, got none"),
        (["a.csv", "b.csv"], "got 'a.csv', 'b.csv'"),
        (["none.csv"], "none.csv: expected a CSV file that lists recordings"),
    ):
        assert main(["init", *words]) == 2
        assert message in capsys.readouterr().err
    table = write(tmp_path / "data", "file,emotion,speaker", of_classes(720))
    (tmp_path / "labels.yaml").write_text("mine")
    assert main(["init", table]) == 2
    assert "out: expected a new file, got 'labels.yaml'" in capsys.readouterr().err
    assert (tmp_path / "labels.yaml").read_text() == "mine"
    assert main(["init", table, "out=other.yaml"]) == 0 and (tmp_path / "other.yaml").exists()


def test_nothing_heavy_is_imported(tmp_path):
    table = write(tmp_path / "data", "file,emotion,speaker", of_classes(720))
    code = f"import sys; from tuning.cli.init import main; assert main([{table!r}]) == 0; "
    code += "assert not {'torch', 'ray'} & set(sys.modules), 'heavy imports'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_a_column_whose_name_says_more_than_its_content_is_told(capsys, monkeypatch, tmp_path):
    rows = [f"{n}.wav,{('sad', 'happy')[n // 4 % 2]},{n % 2},{('Train', 'Val')[n % 2]}" for n in range(40)]
    output, plan = init(capsys, monkeypatch, tmp_path, write(tmp_path / "data", "file,emotion,Speaker ID,split", rows))
    assert plan.config.data.group_column is None
    assert "note      column 'Speaker ID' holds 0, 1 and is not used to keep speakers apart;" in output
    assert "note      column 'split' holds Train, Val and is not used as a split" in output


def test_names_of_columns_are_known_with_spaces_and_split_names_are_told(capsys, monkeypatch, tmp_path):
    rows = [f"{n}.wav,{('sad', 'happy')[n // 8 % 2]},{n % 8},{('Train', 'Val')[n % 2]}" for n in range(64)]
    output, plan = init(capsys, monkeypatch, tmp_path, write(tmp_path / "data", "file,emotion,Speaker ID,split", rows))
    assert plan.config.data.group_column == "Speaker ID" and plan.config.data.split_column is None
    assert "note      column 'split' holds Train, Val and is not used as a split; expected train, val, test" in output


def test_decimal_commas_are_numbers_that_the_reader_explains(capsys, tmp_path):
    table = write(tmp_path / "data", "file;artist;valence", [f"{n}.wav;a{n % 9};1,{n % 7}" for n in range(40)])
    assert main(["init", table]) == 2
    assert "with a decimal point it is 1.0" in capsys.readouterr().err


def test_the_scale_is_told(capsys, monkeypatch, tmp_path):
    rows = [f"{n}.wav,a{n % 12},{1 + n % 5},{1 + n % 9}" for n in range(60)]
    output, _ = init(capsys, monkeypatch, tmp_path, write(tmp_path / "data", "file,artist,valence,arousal", rows))
    assert "scale     1 to 9, by the smallest and the largest label" in output
