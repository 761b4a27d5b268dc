"""Settings of corpus, split, features and augmentation. Imports nothing heavy: `--help` reads it."""

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tuning.models.encoder_shapes import SPEECH_RATE_HZ, Layers, speech_shape

Loading = Literal["auto", "resident", "streamed"]
Segment = Literal["middle", "start"]
Padding = Literal["masked", "silence", "zero"]
Normalise = Literal["train", "group", "none"]
# In the order in which they are applied: first the speaker, then the room, then what the microphone adds.
WAVE_EFFECTS = ("speed", "stretch", "pitch", "formant", "room", "noise")
EGEMAPS = 88  # statistics of eGeMAPS
FEW_CLIPS = 5000  # below so many training clips augment.enabled=auto is true


class Settings(BaseModel):
    """Base of every settings section: unknown names are errors, a number given for a text becomes that text."""

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
    """Which recordings, where their labels are, and what makes a recording unusable."""

    corpus: str = Field(
        "demo",
        description="music: deam, demo, pmemo; songs with lyrics: demo_bimodal, merge; speech: cremad, demo_speech, "
        "emodb, iemocap, ravdess; any CSV: manifest; your own: package.module:function",
    )
    root: str | None = Field(None, description="folder or URI of the corpus; demo corpora have their own")
    manifest: str = Field("manifest.csv", description="CSV file of the recordings, relative to data.root")
    file_column: str = Field("file", description="column with each recording's path, relative to data.root (manifest)")
    text_column: str | None = Field(
        None, description="column with the path of each recording's lyrics, relative to data.root"
    )
    target_columns: list[str] | None = Field(
        None, description="columns with the labels, in the order of task.targets (default: columns of the same names)"
    )
    target_range: tuple[float, float] | None = Field(
        None, description="scale of the labels, such as [1, 9], that is mapped to [-1, 1]; a label outside is an error"
    )
    label_column: str | None = Field(
        None, description="column with each recording's class, for task.name=classification"
    )
    group_column: str | None = Field(None, description="column with the speaker or artist, who is never in two splits")
    fold_column: str | None = Field(None, description="column with the published folds, for split.test_fold")
    folds: str | None = Field(
        None,
        description="folds or split of a corpus by name (ravdess: reslstm, emobox; iemocap: sessions; merge: 70_15_15, "
        "40_30_30; default: the first); any speech: speakers, a fold for each, or speakers_5, five folds of speakers; "
        "cremad, emodb: emobox, read from data.fold_lists, which shares speakers",
    )
    fold_lists: str | None = Field(
        None,
        description="folder or URI of EmoBox's lists, EmoBox/data or the corpus's folder in it (data.folds=emobox of "
        "cremad and emodb)",
    )
    split_column: str | None = Field(None, description="column with each recording's split: train, val or test")
    min_clip_seconds: float = Field(0.1, gt=0, description="shorter recordings are quarantined")
    silence_dbfs: float = Field(
        -80.0, lt=0, description="recordings whose peak is below this are quarantined as silent"
    )
    max_channels: int = Field(
        2, ge=1, description="recordings with more channels are quarantined, others are mixed to mono"
    )
    max_quarantined_share: float = Field(
        0.05, ge=0, le=1, description="largest share that may be quarantined, else the command stops"
    )
    prepared: str = Field("prepared", description="folder or URI (s3://, gs://) where prepared features are kept")
    loading: Loading = Field(
        "auto",
        description="features in memory, or streamed from disk in each epoch; auto: in memory if they fit",
    )
    verify: bool = Field(
        False,
        description="read every recording and text again, even where its size and time of change are as before",
    )
    known_as: list[str] | None = Field(
        None,
        description="published corpora that a manifest or an own corpus is made of, such as [emotify], for the table "
        "of encoders' training data",
    )
    known_encoders: Literal["refuse", "mark"] = Field(
        "refuse",
        description="a pretrained encoder that was trained on the corpus (data.corpus, data.known_as): refuse it, or "
        "search all the same and mark every score",
    )
    known_table: str | None = Field(
        None, description="YAML file with more of what encoders were trained on, in the form of models/known_data.yaml"
    )


class SplitSettings(Settings):
    """Which clips train, which validate, and which are sealed for the test at the end."""

    method: Literal["auto", "column", "folds", "group_folds", "leave_one_group_out", "grouped", "random"] = Field(
        "auto",
        description="how clips are split; auto: by split column, else folds, else groups, else at random",
    )
    val_share: float = Field(0.15, gt=0, lt=1, description="share of clips for validation (split grouped or random)")
    test_share: float = Field(
        0.15, gt=0, lt=1, description="share of clips sealed for the test (split grouped or random)"
    )
    quadrants: Literal["median", "zero"] = Field(
        "median",
        description="stratify a regression by quadrants around the targets' medians, or around zero (labels centred by "
        "data.target_range); classifications are stratified by class",
    )
    seed: int = Field(42, ge=0, description="seed of the splits grouped, random and group_folds, and of inner_folds")
    num_folds: int = Field(5, ge=2, description="number of folds (split.method=group_folds)")
    test_fold: str | None = Field(
        None,
        description="fold that is sealed for the test; with split.method=leave_one_group_out, the group (default: the "
        "first fold, if split.method=auto finds folds)",
    )
    val_fold: str | None = Field(
        None,
        description="fold for validation (default: groups that the corpus names, else the fold after test_fold)",
    )
    dev_groups: list[str] | None = Field(None, description="groups for validation, in place of split.val_fold")
    inner_folds: int | None = Field(
        None,
        ge=2,
        description="make each trial a cross-validation with this number of folds, dealt from the training and "
        "validation clips (default: one validation split)",
    )

    @model_validator(mode="after")
    def _check_shares(self) -> "SplitSettings":
        if self.val_share + self.test_share >= 1:
            raise ValueError("val_share + test_share: expected less than 1, so that clips are left to train on")
        return self


Spectral = Literal["mfcc", "mel", "chroma", "mel+mfcc", "mel+chroma", "mfcc+chroma", "mel+mfcc+chroma"]
OF_SPECTRUM = Only("name", *get_args(Spectral))


class FeatureSettings(Settings):
    """The input of the model, frames x features, computed once per recording."""

    name: Literal[Spectral, "encoder", "egemaps"] = Field(
        "mfcc",
        description="mfcc (cepstral coefficients), mel (spectrogram in dB), chroma (pitch classes) or several of them; "
        "encoder (hidden states of a pretrained encoder of sound); egemaps (88 statistics of a voice over a clip, "
        "which is one frame then; by openSMILE, for research only)",
    )
    encoder: Annotated[str | None, Only("name", "encoder")] = Field(
        None,
        description="hub name or folder of a wav2vec 2.0, HuBERT, WavLM or Whisper, or of a musicnn: "
        "musicnn/MSD_musicnn, musicnn/MTT_musicnn",
    )
    encoder_layers: Annotated[Layers, Only("name", "encoder")] = Field(
        -1,
        description="layers whose hidden states are used, side by side: one, a list, or all; -1: the last, 0: the "
        "input of the first",
    )
    encoder_pooling: Annotated[Literal["frames", "mean", "mean_std"], Only("name", "encoder")] = Field(
        "frames",
        description="hidden states of each frame (frames), or over a clip their mean, or mean and standard deviation; "
        "a clip is then one frame",
    )
    pooled_seconds: Annotated[float, Only("name", "encoder", "egemaps")] = Field(
        30.0,
        gt=0,
        le=3600,
        description="seconds of a recording that become one frame (egemaps, encoder_pooling); of a longer one those in "
        "the middle",
    )
    sample_rate_hz: int = Field(16000, ge=1000, le=192000, description="rate to which recordings are resampled")
    window_samples: Annotated[int, OF_SPECTRUM] = Field(
        2048, ge=16, description="length of the analysis window, which is the FFT size"
    )
    hop_samples: Annotated[int, OF_SPECTRUM] = Field(
        800, ge=1, description="step between frames; 800 at 16 kHz is 50 ms"
    )
    num_mels: Annotated[int, OF_SPECTRUM] = Field(128, ge=1, description="number of mel bands")
    num_mfcc: Annotated[int, OF_SPECTRUM] = Field(40, ge=1, description="number of cepstral coefficients (mfcc)")
    fmin_hz: Annotated[float, OF_SPECTRUM] = Field(0.0, ge=0, description="lowest frequency of the mel bands")
    fmax_hz: Annotated[float | None, OF_SPECTRUM] = Field(
        None, gt=0, description="highest frequency of the mel bands (default: half the rate)"
    )
    db_floor: Annotated[float, OF_SPECTRUM] = Field(
        -80.0, ge=-200, lt=0, description="level of silence in dB: lower values are raised to it"
    )
    db_reference: Literal["fixed", "peak"] = Field(
        "fixed",
        description="0 dB is full power (fixed) or each clip's loudest value (peak), which hides how loud it is",
    )
    segment: Segment = Field("middle", description="part of a longer recording that is kept, after features.trim_db")
    padding: Padding = Field(
        "masked",
        description="what follows a shorter clip; masked: nothing that counts; silence: the features of silence, which "
        "count as sound (not with an encoder); zero: zeros, which in decibels are loud, and count",
    )
    trim_db: float | None = Field(
        None,
        gt=0,
        description="cut the ends of a recording that stay this many dB below its loudest passage (null: keep them)",
    )
    deltas: int = Field(0, ge=0, le=2, description="1 adds first derivatives over time, 2 also second ones")
    normalise: Normalise = Field(
        "train",
        description="features are centred and scaled by the training clips (train), or each speaker's or artist's by "
        "all of his own clips, without their labels (group), of which a prediction then needs several, too; none: as "
        "they are",
    )
    num_frames: int = Field(
        600,
        ge=1,
        description="frames that the model sees; longer clips are cut (features.segment), shorter padded; 1 where a "
        "clip is one frame",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "FeatureSettings":
        if self.is_pooled:
            self.num_frames = 1
        if self.name in ("encoder", "egemaps"):
            return self._without_spectrum()
        if self.num_frames == 1:
            raise ValueError(f"num_frames: expected at least 2 with features.name={self.name}, a hop of sound, got 1")
        if "mfcc" in self.parts and self.num_mfcc > self.num_mels:
            raise ValueError(f"num_mfcc: expected at most num_mels ({self.num_mels}), got {self.num_mfcc}")
        fmax = self.fmax_hz or self.sample_rate_hz / 2
        if not self.fmin_hz < fmax <= self.sample_rate_hz / 2:
            raise ValueError(
                f"fmax_hz: expected above fmin_hz ({self.fmin_hz:g}) and at most half the sample rate "
                f"({self.sample_rate_hz / 2:g}), got {fmax:g}"
            )
        return self

    def _without_spectrum(self) -> "FeatureSettings":
        if self.name == "encoder":
            self._check_encoder()
        if self.padding == "silence":
            raise ValueError(f"padding: expected masked or zero with features.name={self.name}, got silence")
        for name, only in (("deltas", 0), ("segment", "middle"), ("db_reference", "fixed")):
            if (got := getattr(self, name)) != only:
                raise ValueError(f"{name}: expected {only} with features.name={self.name}, got {got}")
        return self

    def _check_encoder(self) -> None:
        if self.encoder is None:
            raise ValueError("encoder: expected a hub name or a folder with features.name=encoder, got null")
        if self.sample_rate_hz != SPEECH_RATE_HZ:
            raise ValueError(
                f"sample_rate_hz: expected {SPEECH_RATE_HZ} with features.name=encoder, got {self.sample_rate_hz}"
            )
        layers = self.encoder_layers if isinstance(self.encoder_layers, list) else [self.encoder_layers]
        if self.encoder_layers != "all" and (len(set(layers)) < max(1, len(layers)) or min(map(int, layers)) < -1):
            raise ValueError(f"encoder_layers: expected one or several different ones from -1 on, got {layers}")

    @property
    def is_pooled(self) -> bool:
        """Whether a clip is one frame: statistics of a voice, or pooled hidden states of an encoder."""
        return self.name == "egemaps" or (self.name == "encoder" and self.encoder_pooling != "frames")

    @property
    def pooled_by(self) -> str:
        """The setting by which a clip is one frame, with its value, for errors."""
        return "features.name=egemaps" if self.name == "egemaps" else f"features.encoder_pooling={self.encoder_pooling}"

    @property
    def stored_as(self) -> Literal["float16", "float32"]:
        """The type of stored values. Frames of an encoder are many, and half of their digits decide nothing."""
        return "float16" if self.name == "encoder" and not self.is_pooled else "float32"

    @property
    def parts(self) -> list[str]:
        """The kinds of features in a frame, in order."""
        return self.name.split("+")

    @property
    def widths(self) -> dict[str, int]:
        """Features per frame of each part, without deltas. Raises ValueError when the encoder is not found."""
        if self.name == "encoder":
            shape = speech_shape(self.encoder)
            statistics = 2 if self.encoder_pooling == "mean_std" else 1
            return {"encoder": statistics * sum(shape.sizes[layer] for layer in shape.layers(self.encoder_layers))}
        known = {"mel": self.num_mels, "mfcc": self.num_mfcc, "chroma": 12, "egemaps": EGEMAPS}
        return {part: known[part] for part in self.parts}

    @property
    def num_features(self) -> int:
        """Features per frame, deltas included."""
        return sum(self.widths.values()) * (1 + self.deltas)


class AugmentSettings(Settings):
    """Augmentation of training clips: wave effects from a bank prepared once, masks and mixup drawn per batch.

    Each wave effect is drawn on its own, with probability `<effect>_prob` for each clip and epoch; those that are drawn
    together are applied in the order of `WAVE_EFFECTS`. Ranges and `versions` decide what the bank holds, probabilities
    how often it is used. Nothing of the section counts where `enabled` is false.
    """

    enabled: bool | Literal["auto"] = Field(
        True,
        description="false turns off all of this section, generated clips too; auto: true with fewer than "
        f"{FEW_CLIPS:,} training clips",
    )

    stretch_prob: float = Field(0.0, ge=0, le=1, description="share of clips stretched in time, at the same pitch")
    pitch_prob: float = Field(0.0, ge=0, le=1, description="share of clips shifted in pitch, at the same tempo")
    noise_prob: float = Field(0.0, ge=0, le=1, description="share of clips with white noise added")
    speed_prob: float = Field(0.0, ge=0, le=1, description="share of clips played faster or slower, pitch included")
    room_prob: float = Field(0.0, ge=0, le=1, description="share of clips with the reverberation of a room")
    formant_prob: float = Field(0.0, ge=0, le=1, description="share of clips whose formants move, at the same pitch")
    stretch_range: tuple[float, float] = Field(
        (0.8, 1.2), description="lowest and highest tempo factor, within 0.5 to 2"
    )
    pitch_semitones: float = Field(2.0, gt=0, le=12, description="largest shift of the pitch, up or down, in semitones")
    noise_range: tuple[float, float] = Field(
        (0.001, 0.01), description="lowest and highest rms of the noise, as a share of the clip's peak"
    )
    speed_range: tuple[float, float] = Field((0.9, 1.1), description="lowest and highest speed factor, within 0.5 to 2")
    room_seconds: tuple[float, float] = Field((0.1, 0.5), description="shortest and longest RT60 of the room")
    formant_range: tuple[float, float] = Field(
        (0.9, 1.1), description="lowest and highest formant factor, within 0.5 to 2"
    )
    versions: int = Field(
        2, ge=1, le=100, description="versions of each training clip under each combination of wave effects"
    )
    time_masks: int = Field(0, ge=0, description="number of time masks on a clip (SpecAugment)")
    time_mask_frames: int = Field(20, ge=1, description="longest time mask, in frames; at most half of the clip")
    freq_masks: int = Field(0, ge=0, description="number of frequency masks on a clip (SpecAugment)")
    freq_mask_bands: int = Field(24, ge=1, description="widest frequency mask, in mel bands")
    mask_prob: float = Field(1.0, ge=0, le=1, description="share of training clips that are masked")
    synthetic_share: float = Field(
        0.0, ge=0, le=10, description="clips generated by a GAN (section gan) per real clip in an epoch"
    )
    mixup_prob: float = Field(0.0, ge=0, le=1, description="share of training batches that are mixed in pairs")
    mixup_alpha: float = Field(0.4, gt=0, description="mixup draws shares from Beta(alpha, alpha)")

    @model_validator(mode="after")
    def _all_off(self) -> "AugmentSettings":
        if self.enabled is False:
            for name, field in type(self).model_fields.items():
                if name != "enabled":
                    setattr(self, name, field.get_default())
        return self

    @model_validator(mode="after")
    def _check_ranges(self) -> "AugmentSettings":
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
        """Probability of each wave effect that may be drawn, in the order of `WAVE_EFFECTS`."""
        return {effect: prob for effect in WAVE_EFFECTS if (prob := getattr(self, f"{effect}_prob")) > 0}

    def combinations(self) -> list[str]:
        """The combinations of wave effects that a clip may get."""
        effects = self.effects()
        return effect_combinations(list(effects), [effect for effect, prob in effects.items() if prob == 1])


def effect_combinations(effects: Sequence[str], always: Collection[str] = ()) -> list[str]:
    """Each combination of one or more of the wave effects that contains all of those that are `always` drawn.

    A combination is named by its effects, joined by + in the order of `effects`.

    >>> effect_combinations(["stretch", "room", "noise"], always=["noise"])
    ['noise', 'stretch+noise', 'room+noise', 'stretch+room+noise']
    """
    subsets = (c for count in range(1, len(effects) + 1) for c in itertools.combinations(effects, count))
    return ["+".join(subset) for subset in subsets if set(always).issubset(subset)]


def stored_features(features: FeatureSettings, settings: AugmentSettings) -> FeatureSettings:
    """The features to store in shards: MFCC need their mel bands, too, if frequencies are masked.

    Raises ValueError when frequencies can't be masked.
    """
    if settings.freq_masks == 0:
        return features
    if not {"mel", "mfcc"} & set(features.parts):
        raise ValueError(
            f"augment.freq_masks: expected 0 with features.name={features.name}, which has no mel bands to mask, "
            f"got {settings.freq_masks}"
        )
    if settings.freq_mask_bands > features.num_mels:
        raise ValueError(
            f"augment.freq_mask_bands: expected at most features.num_mels ({features.num_mels}), "
            f"got {settings.freq_mask_bands}"
        )
    if "mel" in features.parts:
        return features
    return features.model_copy(update={"name": f"mel+{features.name}"})


# Defaults of a corpus, which override the space file and are overridden by the command line. The demo has clips of 4 s
# and small networks, so that a whole search ends in minutes on a laptop. DEAM is split by song, as documented, because
# its tables do not name artists. IEMOCAP is mostly reported on four classes, excitement counted as happiness.
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
