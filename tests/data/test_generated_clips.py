"""What a GAN needs before it is trained."""

import pytest

from tuning.config.errors import UserError
from tuning.config.loader import load
from tuning.data.generated_clips import prepare_generated_clips
from tuning.datasets.corpus import Clip
from tuning.datasets.splits.split import Split


def test_too_few_training_clips_are_refused_before_ray_is_needed():
    _, space, _ = load(["space=vit_gan"])
    split = Split([Clip(f"{n}.wav") for n in range(3)], [Clip("v.wav")], [], "random")
    with pytest.raises(UserError, match=r"expected at least 4 training clips and .* got 3 and \d"):
        prepare_generated_clips(None, space.fixed(), split)
