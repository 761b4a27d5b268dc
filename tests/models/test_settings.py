"""Where a model's settings are found, and what they say of a model that declares nothing."""

import subprocess
import sys
import textwrap
import uuid

import pytest
import torch
from pydantic import Field

from tuning.config.schema import import_model, model_settings, parse_config
from tuning.models import MODELS
from tuning.models.base import Model, ModelSettings, pretrained_weights

pytestmark = pytest.mark.usefixtures("named_code")

NETWORK = """
from typing import Literal

import torch

from tuning.models.base import Model, ModelSettings


class Mean(Model):
    class Settings(ModelSettings):
        name: Literal["mean"] = "mean"
        width: int = 8

    def __init__(self, settings, num_features, num_outputs):
        super().__init__()
        self.output = torch.nn.Linear(num_features, num_outputs)

    def forward(self, features, num_frames=None):
        return self.output(features.mean(dim=1))
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write modules under a name that no other test has imported; the name."""
    monkeypatch.syspath_prepend(tmp_path)
    name = f"own_{uuid.uuid4().hex}"

    def written(**sources):
        for suffix, source in sources.items():
            (tmp_path / f"{name}{suffix.removeprefix('network')}.py").write_text(textwrap.dedent(source))
        return name

    return written


@pytest.mark.parametrize("name", MODELS)
def test_every_setting_is_described(name):
    assert all(field.description for field in model_settings(name).model_fields.values())


def test_the_settings_of_all_models_are_read_without_torch():
    program = (
        "import sys; from tuning.config.schema import model_settings; from tuning.models import MODELS; "
        "[model_settings(name)() for name in MODELS]; print(*({'torch', 'transformers', 'numpy'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_new_model_is_one_file_and_one_line(write, monkeypatch):
    monkeypatch.setitem(MODELS, "mean", f"{write(network=NETWORK)}:Mean")
    model_settings.cache_clear()
    config = parse_config({"model": {"name": "mean", "width": 4}, "training": {"epochs": 1}})
    assert config.model.width == 4 and config.model.text_input is None and config.model.unfreezing is None
    model = import_model("mean")(config.model, 3, 2)
    assert model(torch.ones(5, 7, 3)).shape == (5, 2) and model.penalty() == 0 and model.min_frames == 1
    assert pretrained_weights(model) == [(1, [])]


def test_settings_in_a_module_of_their_own_are_read_without_the_network(write):
    light = (
        "from tuning.models.settings import ModelSettings\n\nclass MeanSettings(ModelSettings):\n    name: str = 'm'\n"
    )
    name = write(network="raise RuntimeError('imported')", network_settings=light)
    assert model_settings(f"{name}:Mean").__name__ == "MeanSettings"


def test_a_module_of_that_name_without_such_a_class_is_somebody_else_s(write):
    name = write(network=NETWORK, network_settings="WIDTH = 3")
    assert model_settings(f"{name}:Mean") is import_model(f"{name}:Mean").Settings


PLAIN = """
from pydantic import BaseModel


class Mean:
    class Settings(BaseModel, extra="allow"):
        \"\"\"Settings of a user.\"\"\"

        name: str = "own"
        {line}
"""


def test_settings_that_inherit_nothing_of_ours_get_the_defaults_and_stay_as_they_are(write):
    name = f"{write(network=PLAIN.format(line='width: int = 8'))}:Mean"
    own, found = import_model(name).Settings, model_settings(name)
    assert issubclass(found, own) and issubclass(found, ModelSettings)
    common = {"layer_weights", "encoder_training", "lora_rank", "lora_alpha", "gradient_checkpointing"}
    assert found.model_fields.keys() == {"name", "width"} | common
    settings = found(width=3, unknown=4)  # as the user allows
    assert isinstance(settings, own) and settings.unknown == 4
    assert (settings.text_input, settings.needs_text, settings.encoder_setting) == (None, False, None)
    assert (settings.unfreezing, settings.encoder_parts) == (None, ())
    assert found.__doc__ == own.__doc__ and found.__qualname__ == "Mean.Settings"


@pytest.mark.parametrize(
    "line", ["unfreeze_epochs: list[int] = [2]", "image_encoder: str = 'x'", "text_input = property(str)"]
)
def test_settings_that_mean_something_to_a_search_must_inherit_what_says_so(write, line):
    name = f"{write(network=PLAIN.format(line=line))}:Mean"
    with pytest.raises(
        ValueError, match=rf"which has {line.split()[0].strip(':')}, to inherit tuning.models.base.ModelS"
    ):
        model_settings(name)


def test_what_such_settings_define_themselves_is_theirs(write):
    name = write(network=PLAIN.format(line="def check_encoder(self): return 'theirs'"))
    assert model_settings(f"{name}:Mean")().check_encoder() == "theirs"


def test_settings_without_a_name_are_refused(write):
    name = f"{write(network=PLAIN.format(line='width: int = 8').replace('name: str', 'title: str'))}:Mean"
    with pytest.raises(
        ValueError, match=r"^model.name: expected '.*' to have Settings, a pydantic model with .*'name'"
    ):
        model_settings(name)


class Sizes(ModelSettings):
    name: str = "sizes"
    widths: list[int] = Field([])
    rates: list[float] = Field([0.1])


def test_sizes_are_positive_and_each_block_has_a_value():
    Sizes(widths=[1]).check_sizes("widths")
    with pytest.raises(ValueError, match=r"^widths: expected positive sizes, got \[2, 0\]"):
        Sizes(widths=[2, 0]).check_sizes("widths")
    for widths, rates in ((3, 1), (3, 3), (0, 2)):
        Sizes(widths=[1] * widths, rates=[0.1] * rates).check_blocks("rates", "rate", of="widths")
    for widths, rates in ((3, 2), (2, 3)):
        with pytest.raises(ValueError, match=rf"^rates: expected one rate .* widths \({widths}\), got {rates}"):
            Sizes(widths=[1] * widths, rates=[0.1] * rates).check_blocks("rates", "rate", of="widths")


def test_a_model_of_a_user_s_own_may_say_what_came_pretrained():
    class Own(torch.nn.Linear):
        def encoder_parameters(self):
            return self.parameters()

    assert not issubclass(Own, Model)
    ((epoch, weights),) = pretrained_weights(model := Own(2, 2))
    assert epoch == 1 and [id(w) for w in weights] == [id(w) for w in model.parameters()]
