"""Settings of the corpus, its splits and its features. Imports nothing heavy: `--help` reads it."""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tuning.models.encoder_shapes import speech_shape

ENCODER_RATE_HZ = 16000  # that speech encoders were trained at


class Settings(BaseModel):
    """Base of every settings section: unknown names are errors, numbers may stand for text."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True, validate_default=False)


@dataclass(frozen=True, init=False)
class Only:
    """Mark a setting that counts for some choices of another one of its section alone.

    >>> Only("name", "adam").also("name", "mine:lion").choices
    ('adam', 'mine:lion')
    """

    setting: str
    choices: tuple[str, ...]

    def __init__(self, setting: str, *choices: str) -> None:
        object.__setattr__(self, "setting", setting)
        object.__setattr__(self, "choices", choices)

    def also(self, setting: str, choice: str) -> "Only":
        """The same with one more choice, if it is a choice of that setting."""
        return Only(setting, *self.choices, choice) if setting == self.setting else self


class DataSettings(Settings):
    """Which recordings, where their labels stand, and what makes one unusable."""

    corpus: str = Field(
        "demo",
        description="corpus layout: deam, demo, demo_speech, manifest, pmemo; with lyrics: demo_bimodal, merge; with "
        "classes: cremad, emodb, iemocap, ravdess",
    )
    root: str | None = Field(None, description="folder or URI of the corpus; the demo makes its own")
    manifest: str = Field("manifest.csv", description="table of the recordings, relative to data.root")
    file_column: str = Field("file", description="column with the recording's path, relative to data.root")
    text_column: str | None = Field(
        None, description="column with the path of each recording's text, relative to data.root"
    )
    target_columns: list[str] | None = Field(
        None, description="columns of task.targets, in order (default: same names)"
    )
    target_range: tuple[float, float] | None = Field(
        None, description="scale of the labels, e.g. [1, 9], mapped to [-1, 1]; labels outside are errors"
    )
    label_column: str | None = Field(
        None, description="column with each recording's class, for task.name=classification"
    )
    group_column: str | None = Field(None, description="column of the speaker or artist; groups never cross splits")
    fold_column: str | None = Field(None, description="column of fixed folds, for split.test_fold")
    folds: str | None = Field(
        None,
        description="named published folds or split of a corpus (ravdess: reslstm, emobox; merge: 70_15_15, 40_30_30; "
        "default: the first of them)",
    )
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
    verify: bool = Field(
        False,
        description="read every recording and text again, not only those whose size or time of change is another",
    )


class SplitSettings(Settings):
    """Who trains, who validates, and who is sealed for the one test at the end."""

    method: Literal["auto", "column", "folds", "group_folds", "leave_one_group_out", "grouped", "random"] = Field(
        "auto", description="auto: the split column, else folds, else groups, else random, whichever the corpus has"
    )
    val_share: float = Field(0.15, gt=0, lt=1, description="share of clips for validation (grouped, random)")
    test_share: float = Field(0.15, gt=0, lt=1, description="share of clips sealed for the test (grouped, random)")
    quadrants: Literal["median", "zero"] = Field(
        "median",
        description="where the quadrants meet that splits keep alike: the targets' medians, or zero (labels centred by "
        "data.target_range); classes are kept alike in their place",
    )
    seed: int = Field(42, ge=0, description="seed of the grouped and random splits and of group_folds")
    num_folds: int = Field(5, ge=2, description="folds that whole groups are dealt into (group_folds)")
    test_fold: str | None = Field(
        None, description="fold that is sealed for the test (folds, group_folds; a group for leave_one_group_out)"
    )
    val_fold: str | None = Field(
        None, description="fold for validation (default: the corpus's own groups for it, else the one after test_fold)"
    )
    dev_groups: list[str] | None = Field(None, description="groups for validation, in place of val_fold")
    inner_folds: int | None = Field(
        None,
        ge=2,
        description="each trial is a cross-validation: so many folds of the clips of train and validation, the test "
        "untouched (default: one validation split)",
    )

    @model_validator(mode="after")
    def _some_are_left_to_train(self) -> "SplitSettings":
        if self.val_share + self.test_share >= 1:
            raise ValueError("val_share + test_share: expected less than 1, so that clips are left to train on")
        return self


class FeatureSettings(Settings):
    """What the model hears: frames x features, computed once per recording."""

    name: Literal["mfcc", "mel", "chroma", "mel+mfcc", "mel+chroma", "mfcc+chroma", "mel+mfcc+chroma", "encoder"] = (
        Field(
            "mfcc",
            description="cepstral coefficients, mel spectrogram in dB, pitch classes, or several side by side; or the "
            "hidden states of a pretrained speech encoder",
        )
    )
    encoder: str | None = Field(
        None, description="hub name or folder of a wav2vec 2.0, HuBERT or WavLM model (features.name=encoder)"
    )
    encoder_layer: int = Field(
        -1, ge=-1, description="hidden state: -1 the last, 0 what enters the first transformer layer, else that layer's"
    )
    sample_rate_hz: int = Field(16000, ge=1000, le=192000, description="recordings are resampled to this rate")
    window_samples: int = Field(2048, ge=16, description="length of the analysis window (FFT size)")
    hop_samples: int = Field(800, ge=1, description="step between frames; 800 at 16 kHz is 50 ms")
    num_mels: int = Field(128, ge=1, description="mel bands")
    num_mfcc: int = Field(40, ge=1, description="cepstral coefficients kept (mfcc)")
    fmin_hz: float = Field(0.0, ge=0, description="lowest mel frequency")
    fmax_hz: float | None = Field(None, gt=0, description="highest mel frequency (default: half the sample rate)")
    db_floor: float = Field(-80.0, lt=0, description="level of silence: decibels are clamped here")
    db_reference: Literal["fixed", "peak"] = Field(
        "fixed", description="0 dB is full power, or each clip's own loudest value, which hides how loud it is"
    )
    segment: Literal["middle", "start"] = Field("middle", description="what is kept of longer recordings, once trimmed")
    padding: Literal["masked", "silence", "zero"] = Field(
        "masked",
        description="what follows a shorter clip: nothing that counts; the features of silence, which the model takes "
        "for sound (an encoder has none); or zeros, which in decibels are loud",
    )
    trim_db: float | None = Field(
        None,
        gt=0,
        description="cut both ends of the recording where they stay so far below its loudest passage (null: keep them)",
    )
    deltas: int = Field(0, ge=0, le=2, description="1: also each value's slope over time; 2: that one's slope, too")
    num_frames: int = Field(
        600, ge=1, description="frames the model sees: a segment of longer clips, padding of shorter"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "FeatureSettings":
        if self.name == "encoder":
            return self._consistent_encoder()
        if "mfcc" in self.parts and self.num_mfcc > self.num_mels:
            raise ValueError(f"num_mfcc: expected at most num_mels ({self.num_mels}), got {self.num_mfcc}")
        fmax = self.fmax_hz or self.sample_rate_hz / 2
        if not self.fmin_hz < fmax <= self.sample_rate_hz / 2:
            raise ValueError(
                f"fmax_hz: expected above fmin_hz ({self.fmin_hz:g}) and at most half the sample rate "
                f"({self.sample_rate_hz / 2:g}), got {fmax:g}"
            )
        return self

    def _consistent_encoder(self) -> "FeatureSettings":
        if self.encoder is None:
            raise ValueError("encoder: expected a hub name or a folder with features.name=encoder, got null")
        if self.sample_rate_hz != ENCODER_RATE_HZ:
            raise ValueError(
                f"sample_rate_hz: expected {ENCODER_RATE_HZ} with features.name=encoder, got {self.sample_rate_hz}"
            )
        if self.deltas:
            raise ValueError(f"deltas: expected 0 with features.name=encoder, got {self.deltas}")
        if self.padding == "silence":
            raise ValueError("padding: expected masked or zero with features.name=encoder, got silence")
        for name, only in (("segment", "middle"), ("db_reference", "fixed")):
            if (got := getattr(self, name)) != only:
                raise ValueError(f"{name}: expected {only} with features.name=encoder, got {got}")
        return self

    @property
    def parts(self) -> list[str]:
        """What stands side by side in a frame, in order."""
        return self.name.split("+")

    @property
    def widths(self) -> dict[str, int]:
        """Values per frame of each part, without deltas.

        Raises ValueError when there is no such encoder, whose own settings say how many it gives.
        """
        if self.name == "encoder":
            return {"encoder": speech_shape(self.encoder).hidden_size}
        known = {"mel": self.num_mels, "mfcc": self.num_mfcc, "chroma": 12}
        return {part: known[part] for part in self.parts}

    @property
    def num_features(self) -> int:
        """Values per frame."""
        return sum(self.widths.values()) * (1 + self.deltas)


class AugmentSettings(Settings):
    """What training clips are changed by: wave effects from a bank prepared once, masks and mixup drawn per batch.

    Each time a clip is drawn it gets one wave effect at most, effect e with probability `<e>_prob` and none with the
    rest, so that a clip from the bank and one augmented on the spot have the same distribution. Ranges and `versions`
    decide what the bank holds; probabilities, masks and mixup only how it is drawn from.
    """

    stretch_prob: float = Field(0.0, ge=0, le=1, description="share of clips whose tempo changes, pitch kept")
    pitch_prob: float = Field(0.0, ge=0, le=1, description="share of clips whose pitch changes, tempo kept")
    noise_prob: float = Field(0.0, ge=0, le=1, description="share of clips with white noise added")
    speed_prob: float = Field(0.0, ge=0, le=1, description="share of clips whose tempo and pitch change together")
    room_prob: float = Field(0.0, ge=0, le=1, description="share of clips heard in a simulated room")
    formant_prob: float = Field(0.0, ge=0, le=1, description="share of clips whose formants move, pitch kept")
    stretch_range: tuple[float, float] = Field((0.8, 1.2), description="tempo as a factor, 0.5 to 2")
    pitch_semitones: float = Field(2.0, gt=0, le=12, description="largest change of pitch, up or down")
    noise_range: tuple[float, float] = Field(
        (0.001, 0.01), description="amplitude (rms) of the noise as a share of the clip's peak"
    )
    speed_range: tuple[float, float] = Field((0.9, 1.1), description="tempo and pitch as a factor, 0.5 to 2")
    room_seconds: tuple[float, float] = Field((0.1, 0.5), description="reverberation time (RT60) of the room")
    formant_range: tuple[float, float] = Field((0.9, 1.1), description="formant frequencies as a factor, 0.5 to 2")
    versions: int = Field(2, ge=1, le=100, description="copies of each training clip and effect in the bank")
    time_masks: int = Field(0, ge=0, description="stretches of frames masked in a clip (SpecAugment)")
    time_mask_frames: int = Field(20, ge=1, description="longest time mask; never over half of a clip's frames")
    freq_masks: int = Field(0, ge=0, description="stretches of mel bands masked in a clip (SpecAugment)")
    freq_mask_bands: int = Field(24, ge=1, description="widest frequency mask, in mel bands")
    mask_prob: float = Field(1.0, ge=0, le=1, description="share of clips that are masked")
    synthetic_share: float = Field(
        0.0, ge=0, le=10, description="clips made by a GAN (section gan) for each real one in an epoch"
    )
    mixup_prob: float = Field(0.0, ge=0, le=1, description="share of batches whose clips are mixed in pairs")
    mixup_alpha: float = Field(0.4, gt=0, description="mixup: the share of a clip is drawn from Beta(alpha, alpha)")

    @model_validator(mode="after")
    def _possible(self) -> "AugmentSettings":
        effects = self.effects()
        if (total := sum(effects.values())) > 1 + 1e-9:
            names = " + ".join(f"{effect}_prob" for effect in effects)
            raise ValueError(f"{names}: expected at most 1 in all, a clip getting one effect or none, got {total:g}")
        limits = {
            "stretch_range": (0.5, 2.0),
            "noise_range": (0.0, 1.0),
            "speed_range": (0.5, 2.0),
            "room_seconds": (0.01, 10.0),
            "formant_range": (0.5, 2.0),
        }
        for name, (least, most) in limits.items():
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise ValueError(
                    f"{name}: expected [lowest, highest] from {least:g} to {most:g}, got [{low:g}, {high:g}]"
                )
        return self

    def effects(self) -> dict[str, float]:
        """Probability of each wave effect that may be drawn, in a fixed order."""
        known = ("stretch", "pitch", "noise", "speed", "room", "formant")
        return {effect: prob for effect in known if (prob := getattr(self, f"{effect}_prob")) > 0}


# Settings that a corpus brings along, between the space file and the command line. The demo shortens
# its clips (4 s in place of 30 s) so that a whole search ends in minutes on a laptop. DEAM's documented split is
# by song, though artists have several songs there; the tables with the labels do not name them. IEMOCAP is
# reported on four classes almost everywhere, excitement counted as happiness.
CORPUS_DEFAULTS: dict[str, dict[str, object]] = {
    "deam": {
        "data.target_range": [1, 9],
        "split.method": "random",
        "split.quadrants": "zero",
    },
    "demo": {
        "data.group_column": "artist",
        "features.num_frames": 80,
        "model.image_encoder": None,
        "model.pretrained": False,
        "model.unfreeze_epochs": [],
        "model.image_size": 64,
        "model.patch_size": 8,
        "model.hidden_size": 64,
        "model.num_layers": 4,
        "model.num_heads": 4,
        "gan.learning_rate": 0.001,
        "gan.channels": [64, 32, 16, 8],
        "gan.discriminator_channels": [8, 16, 32, 64],
    },
    "demo_bimodal": {
        "data.text_column": "lyrics",
        "data.label_column": "quadrant",
        "data.group_column": "artist",
        "split.quadrants": "zero",
        "features.num_frames": 128,
        "features.num_mels": 64,
        "model.channels": [8, 16, 32, 64],
        "model.text_encoder": "demo",
        "model.max_tokens": 64,
    },
    "demo_speech": {
        "data.label_column": "emotion",
        "data.group_column": "speaker",
    },
    "iemocap": {
        "task.classes": ["angry", "happy", "neutral", "sad"],
        "task.merge_classes": {"excited": "happy"},
        "task.drop_other_classes": True,
    },
    "merge": {
        "data.target_range": [0, 1],
        "split.quadrants": "zero",
    },
    "pmemo": {
        "data.target_range": [0, 1],
        "data.group_column": "artist",
        "split.quadrants": "zero",
    },
}
