"""The multilayer perceptron."""

import pytest
import torch
from pydantic import ValidationError

from tuning.models.mlp import MLP
from tuning.models.mlp_settings import MLPSettings


def linear(**settings):
    """A linear model of three values, without dropout."""
    torch.manual_seed(0)
    return MLP(MLPSettings(**settings), 3, 2).eval()


def test_values_beyond_the_limit_are_cut():
    model = linear(input_limit=2.0)
    clip = torch.tensor([[[5.0, -7000.0, 1.5]]])
    expected = torch.tensor([[2.0, -2.0, 1.5]]) @ model.output.weight.T + model.output.bias
    torch.testing.assert_close(model(clip), expected)


def test_without_a_limit_values_stay():
    model = linear()
    clip = torch.tensor([[[5.0, -7000.0, 1.5]]])
    torch.testing.assert_close(model(clip), clip[0] @ model.output.weight.T + model.output.bias)


def test_what_is_cut_is_the_mean_over_frames():
    model = linear(input_limit=2.0)
    clip = torch.tensor([[[4.0, 0.0, 9.0], [0.0, -2.0, 1.0]]])
    expected = torch.tensor([[2.0, -1.0, 2.0]]) @ model.output.weight.T + model.output.bias
    torch.testing.assert_close(model(clip), expected)


@pytest.mark.parametrize("limit", [0, -1.0])
def test_a_limit_is_above_0(limit):
    with pytest.raises(ValidationError, match="input_limit"):
        MLPSettings(input_limit=limit)
