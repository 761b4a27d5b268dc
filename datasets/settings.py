"""Settings of the corpus, its splits and its features. Imports nothing heavy: `--help` reads it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Settings(BaseModel):
    """Base of every settings section: unknown names are errors, numbers may stand for text."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True, validate_default=False)


class DataSettings(Settings):
    """Which recordings, where their labels stand, and what makes one unusable."""

    corpus: str = Field("demo", description="corpus layout: deam, demo, manifest, pmemo")
    root: str | None = Field(None, description="folder or URI of the corpus; the demo makes its own")
    manifest: str = Field("manifest.csv", description="table of the recordings, relative to data.root")
    file_column: str = Field("file", description="column with the recording's path, relative to data.root")
    target_columns: list[str] | None = Field(
        None, description="columns of task.targets, in order (default: same names)"
    )
    target_range: tuple[float, float] | None = Field(
        None, description="scale of the labels, e.g. [1, 9], mapped to [-1, 1]; labels outside are errors"
    )
    group_column: str | None = Field(None, description="column of the speaker or artist; groups never cross splits")
    fold_column: str | None = Field(None, description="column of fixed folds, for split.test_fold")
    split_column: str | None = Field(None, description="column that says train, val or test")
    min_clip_seconds: float = Field(0.1, gt=0, description="shorter recordings are quarantined")
    silence_dbfs: float = Field(
        -80.0, lt=0, description="recordings whose peak is below this are quarantined as silent"
    )
    max_channels: int = Field(
        2, ge=1, description="recordings with more channels are quarantined; others are mixed to mono"
    )
    max_quarantined_share: float = Field(0.05, ge=0, le=1, description="stop when a larger share is quarantined")
    prepared: str = Field(
        "prepared", description="folder or URI (s3://, gs://) where features are kept and found again"
    )
    loading: Literal["auto", "resident", "streamed"] = Field(
        "auto", description="features in shared memory, or streamed from the shards; auto goes by size"
    )


class SplitSettings(Settings):
    """Who trains, who validates, and who is sealed for the one test at the end."""

    method: Literal["auto", "column", "folds", "grouped", "random"] = Field(
        "auto", description="auto: the split column, else folds, else groups, else random, whichever the corpus has"
    )
    val_share: float = Field(0.15, gt=0, lt=1, description="share of clips for validation (grouped, random)")
    test_share: float = Field(0.15, gt=0, lt=1, description="share of clips sealed for the test (grouped, random)")
    quadrants: Literal["median", "zero"] = Field(
        "median",
        description="where the quadrants meet that grouped and random splits keep alike: the targets' medians, or zero "
        "(labels centred by data.target_range)",
    )
    seed: int = Field(42, ge=0, description="seed of the grouped and random splits")
    test_fold: str | None = Field(None, description="fold that is sealed for the test (folds)")
    val_fold: str | None = Field(None, description="fold for validation (folds; default: the one after test_fold)")
    dev_groups: list[str] | None = Field(None, description="groups for validation, in place of val_fold (folds)")

    @model_validator(mode="after")
    def _some_are_left_to_train(self) -> "SplitSettings":
        if self.val_share + self.test_share >= 1:
            raise ValueError("val_share + test_share: expected less than 1, so that clips are left to train on")
        return self


class FeatureSettings(Settings):
    """What the model hears: frames x features, computed once per recording."""

    name: Literal["mfcc", "mel"] = Field("mfcc", description="cepstral coefficients, or mel spectrogram in dB")
    sample_rate_hz: int = Field(16000, ge=1000, le=192000, description="recordings are resampled to this rate")
    window_samples: int = Field(2048, ge=16, description="length of the analysis window (FFT size)")
    hop_samples: int = Field(800, ge=1, description="step between frames; 800 at 16 kHz is 50 ms")
    num_mels: int = Field(128, ge=1, description="mel bands")
    num_mfcc: int = Field(40, ge=1, description="cepstral coefficients kept (mfcc)")
    fmin_hz: float = Field(0.0, ge=0, description="lowest mel frequency")
    fmax_hz: float | None = Field(None, gt=0, description="highest mel frequency (default: half the sample rate)")
    db_floor: float = Field(-80.0, lt=0, description="level of silence: decibels are clamped here")
    num_frames: int = Field(
        600, ge=1, description="frames the model sees: the middle of longer clips, padding of shorter"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "FeatureSettings":
        if self.name == "mfcc" and self.num_mfcc > self.num_mels:
            raise ValueError(f"num_mfcc: expected at most num_mels ({self.num_mels}), got {self.num_mfcc}")
        fmax = self.fmax_hz or self.sample_rate_hz / 2
        if not self.fmin_hz < fmax <= self.sample_rate_hz / 2:
            raise ValueError(
                f"fmax_hz: expected above fmin_hz ({self.fmin_hz:g}) and at most half the sample rate "
                f"({self.sample_rate_hz / 2:g}), got {fmax:g}"
            )
        return self

    @property
    def num_features(self) -> int:
        """Values per frame."""
        return self.num_mfcc if self.name == "mfcc" else self.num_mels


# Settings that a corpus brings along, between the space file and the command line. The demo shortens
# its clips (4 s in place of 30 s) so that a whole search ends in minutes on a laptop. DEAM's documented split is
# by song, though artists have several songs there; the tables with the labels do not name them.
CORPUS_DEFAULTS: dict[str, dict[str, object]] = {
    "deam": {
        "data.target_range": [1, 9],
        "split.method": "random",
        "split.quadrants": "zero",
    },
    "demo": {
        "data.group_column": "artist",
        "features.num_frames": 80,
    },
    "pmemo": {
        "data.target_range": [0, 1],
        "data.group_column": "artist",
        "split.quadrants": "zero",
    },
}
