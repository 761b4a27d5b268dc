"""`tuning space`: what it prints is read by the search as it is, says everything, and imports nothing heavy."""

import json
import re
import subprocess
import sys
from operator import attrgetter

import pytest
import yaml

from tests.helpers.command import run
from tests.helpers.corpora import CASES
from tests.helpers.tiny_bert import write_encoder
from tests.helpers.tiny_vit import write_image_encoder
from tuning.cli.app import main
from tuning.config.schema import Parts, known_fields
from tuning.config.space_text import OF_CLASSES
from tuning.data.plan import make_plan
from tuning.datasets import CORPORA

SMALL_VIT = ("model.image_encoder=null", "model.pretrained=false", "model.unfreeze_epochs=[]")
COMBINED = [
    ("crnn", "demo", ()),
    ("crnn", "demo_speech", ()),
    ("crnn", "deam", ()),
    ("crnn", "ravdess", ("split.test_fold=1",)),
    ("ser", "demo_speech", ()),
    ("ser", "demo", ()),
    ("ser", "emodb", ()),
    ("ser", "iemocap", ("split.test_fold=1",)),
    ("ser", "pmemo", ()),
    ("vit", "demo", ()),
    ("vit", "demo_speech", SMALL_VIT),
    ("vit", "deam", ("model.image_encoder=TMP/vit",)),
    ("bimodal", "demo_bimodal", ()),
    ("bimodal", "merge", ("model.text_encoder=TMP/bert", "model.max_tokens=16")),
]


def written(capsys, tmp_path, *words):
    assert main(["space", *words]) == 0
    file = tmp_path / "mine.yaml"
    file.write_text(capsys.readouterr().out)
    return file


@pytest.mark.parametrize(("model", "corpus", "others"), COMBINED)
def test_what_is_printed_is_read_as_it_is(capsys, tmp_path, model, corpus, others):
    root = ()
    if corpus in CASES:
        case = CASES[corpus]
        root = (f"data.root={case.write(tmp_path / corpus) or tmp_path / corpus}",)
        root += tuple(f"data.{name}={value}" for name, value in case.settings.items())
    if "TMP/vit" in str(others):
        write_image_encoder(tmp_path / "vit")
    if "TMP/bert" in str(others):
        write_encoder(tmp_path / "bert")
    others = tuple(word.replace("TMP", str(tmp_path)) for word in others)
    file = written(capsys, tmp_path, f"model.name={model}", f"data.corpus={corpus}", *root, *others)
    output = run(f"space={file}", "--dry-run", f"storage={tmp_path}/results")
    assert "1 trial (random" in output and f"{corpus}" in output
    # Every setting with its description, once, active or as a comment for another choice.
    text, plan = file.read_text(), make_plan([f"space={file}"])
    said = re.sub(r"\n *# ", " ", text)
    tree = yaml.safe_load(text)
    for path, field in known_fields(Parts(model)).items():
        section, _, leaf = path.rpartition(".")
        assert field.description in said, path
        is_active = leaf in (tree[section] if section else tree)
        assert is_active or f"\n  # {leaf}: " in text, path
    # The file says what is run: nothing else is set, by the corpus or by default.
    config = plan.config.model_dump(mode="json")
    for path, value in plan.space.settings.items():
        assert attrgetter(path)(plan.config) == value or section_value(config, path) == value, path
    for section, leaves in tree.items():
        for leaf, value in leaves.items() if isinstance(leaves, dict) else ():
            assert section_value(config, f"{section}.{leaf}") == value, (section, leaf)


def section_value(config, path):
    section, _, leaf = path.rpartition(".")
    return config[section][leaf] if section else config[leaf]


def test_the_file_of_speech_has_the_documented_configuration_and_its_ranges(capsys, tmp_path):
    file = written(capsys, tmp_path, "model.name=ser", "data.corpus=demo_speech")
    config = make_plan([f"space={file}"]).config
    documented = {
        "model.conv_channels": [128, 256], "model.lstm_hidden": 128, "model.lstm_layers": 2, "model.dropout": 0.2,
        "model.attention_heads": 4, "optim.learning_rate": 0.001, "training.batch_size": 16, "training.epochs": 50,
        "training.patience": 10, "loss.label_smoothing": 0.1, "optim.schedule": "cosine", "augment.enabled": "auto",
        "augment.mixup_prob": 0.2, "augment.stretch_prob": 0.3, "augment.noise_prob": 0.3,
    }  # fmt: skip
    assert {path: attrgetter(path)(config) for path in documented} == documented
    text = file.read_text()
    assert "\n  learning_rate: 0.001\n  # learning_rate: {loguniform: [0.0005, 0.002]}\n" in text
    # A range in the value's place is searched.
    file.write_text(text.replace("  learning_rate: 0.001\n  # learning_rate:", "  learning_rate:"))
    space = make_plan([f"space={file}"]).space
    assert {path: str(found) for path, found in space.distributions.items()} == {
        "optim.learning_rate": "loguniform[0.0005, 0.002]"
    }


def test_settings_and_distributions_of_the_command_line_are_written(capsys, tmp_path):
    words = ("optim.name=sgd", "optim.learning_rate={loguniform: [0.001, 0.1]}", "training.epochs=7")
    space = make_plan([f"space={written(capsys, tmp_path, *words)}"]).space
    assert list(space.distributions) == ["optim.learning_rate"]
    config = space.fixed()
    assert (config.optim.name, config.training.epochs) == ("sgd", 7)
    words = ("space=crnn_grid", "model.kernel_size=5")
    text = written(capsys, tmp_path, *words).read_text()
    assert "\n  kernel_size: 5\n" in text and "  # dense_l2: {grid: [0.001, 0.01]}\n" in text


def test_a_model_of_your_own_has_its_settings(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_space_model.py").write_text(
        "from pydantic import BaseModel, Field\n\n\nclass Mean:\n    class Settings(BaseModel, extra='forbid'):\n"
        "        name: str = 'own_space_model:Mean'\n        width: int = Field(8, description='units of it')\n"
    )
    file = written(capsys, tmp_path, "model.name=own_space_model:Mean")
    assert "  # units of it (integer)\n  width: 8\n" in file.read_text()
    assert make_plan([f"space={file}"]).config.model.width == 8


def test_wrong_settings_are_refused(capsys):
    assert main(["space", "model.name=srr"]) == 2
    assert "model.name: expected one of crnn, ser" in capsys.readouterr().err
    assert main(["space", "data.corpus=radvess"]) == 2
    assert "data.corpus: expected one of cremad, " in (said := capsys.readouterr().err) and "'ravdess'?" in said
    assert main(["space", "optim.learning_rat=1"]) == 2
    assert "did you mean 'learning_rate'?" in capsys.readouterr().err


def test_nothing_heavy_is_imported():
    code = (
        "import sys, json; from tuning.cli.app import main; main(['space', 'model.name=bimodal']); "
        "print(json.dumps([name for name in ('torch', 'ray', 'numpy', 'pyarrow') if name in sys.modules]))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(output.splitlines()[-1]) == []


def test_corpora_of_classes_are_those_that_have_no_numbers():
    known = {name for name, case in CASES.items() if case.classes}
    assert OF_CLASSES - {"demo_speech"} == known and set(CORPORA) >= OF_CLASSES
