"""A CRNN that writes a line at the start of each epoch, so that `benchmarks.kills` can count the epochs."""

from __future__ import annotations

import json
import os
import time
from typing import Literal

from pydantic import Field

from tuning.models.crnn import CRNN
from tuning.models.crnn_settings import CRNNSettings

# Environment variable with the file for the lines; workers inherit it.
FILE = "KILLS_EPOCHS_FILE"


class CountedSettings(CRNNSettings):
    """The settings of the CRNN; `lstm_dropout` and `dense_l2` tell trials apart."""

    name: Literal["benchmarks.counted:Counted"] = Field("benchmarks.counted:Counted")  # type: ignore[assignment]


class Counted(CRNN):
    """A CRNN with the same weights, outputs and penalties as `CRNN`."""

    Settings = CountedSettings

    def __init__(self, settings: CountedSettings, num_features: int, num_outputs: int) -> None:
        self.line = {"trial": [settings.lstm_dropout, settings.dense_l2], "pid": os.getpid()}
        super().__init__(settings, num_features, num_outputs)

    def train(self, mode: bool = True) -> Counted:
        """Write the line, too: the trainer calls `train()` when an epoch begins, `train(False)` before it validates."""
        if mode and FILE in os.environ and self.line is not None:
            with open(os.environ[FILE], "a", encoding="utf-8") as stream:  # one write, so lines stay whole
                stream.write(json.dumps(self.line | {"time": time.time()}) + "\n")
        super().train(mode)
        return self
