"""Every setting: its type, range, default and one line of help. Imports nothing heavy."""

import functools
import importlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, Field, create_model, model_validator
from pydantic.fields import FieldInfo

from tuning.config.errors import UserError
from tuning.config.own_functions import OwnFunctions, named_code, own_functions, with_own
from tuning.datasets.dotted_path import allow, did_you_mean, imported, module_of
from tuning.datasets.settings import AugmentSettings, DataSettings, FeatureSettings, Only, Settings, SplitSettings
from tuning.models import MODELS, OF_ONE_FRAME
from tuning.models.crnn_settings import CRNNSettings
from tuning.models.gan_settings import GANSettings
from tuning.models.settings import ModelSettings, as_model_settings

OR_OWN = "or package.module:function"  # said of what such a setting takes


class TaskSettings(Settings):
    """What is predicted."""

    name: Literal["regression", "classification"] = Field("regression", description="numbers, or one class of several")
    targets: Annotated[list[str], Only("name", "regression")] = Field(
        ["valence", "arousal"], min_length=1, description="names of the outputs"
    )
    classes: Annotated[list[str] | None, Only("name", "classification")] = Field(
        None, min_length=2, description="names of the classes, in order; default: those of the corpus"
    )
    merge_classes: Annotated[dict[str, str], Only("name", "classification")] = Field(
        {}, description="classes that count as another, e.g. {excited: happy}"
    )
    drop_other_classes: Annotated[bool, Only("name", "classification")] = Field(
        False, description="leave out clips of classes that are not listed; else they are an error"
    )
    accuracy_threshold: Annotated[float, Only("name", "regression")] = Field(
        0.5, gt=0, description="val_accuracy counts clips whose every error is at most this, in units of the labels"
    )


class LossSettings(Settings):
    """What training minimises; always the mean over outputs and clips."""

    name: Annotated[Literal["mse", "weighted_mse", "huber", "emotion_aware", "cross_entropy"], OR_OWN] = Field(
        "mse", description="loss function (default for classification: cross_entropy)"
    )
    delta: Annotated[float, Only("name", "huber")] = Field(
        1.0, gt=0, description="where Huber turns from square to linear"
    )
    weights: Annotated[list[float], Only("name", "weighted_mse")] = Field(
        [1.0, 1.2], min_length=1, description="weight of each target's squared error, in order"
    )
    quadrant_penalty: Annotated[float, Only("name", "emotion_aware")] = Field(
        0.1, ge=0, description="weight of the wrong quadrant"
    )
    quadrant: Annotated[Literal["smooth", "sign"], Only("name", "emotion_aware")] = Field(
        "smooth", description="form of that penalty; sign is the documented one, without gradient"
    )
    quadrant_sharpness: Annotated[float, Only("name", "emotion_aware")] = Field(
        5.0, gt=0, description="slope at the axes of the smooth penalty's tanh"
    )

    label_smoothing: Annotated[float, Only("name", "cross_entropy")] = Field(
        0.0, ge=0, lt=1, description="share of each label that is spread over all classes, in training"
    )
    class_weights: Annotated[Literal["none", "inverse"], Only("name", "cross_entropy")] = Field(
        "none", description="inverse: training clips count by the inverse of their class's frequency"
    )

    @model_validator(mode="after")
    def _weights_above_zero(self) -> "LossSettings":
        if not all(0 < weight < float("inf") for weight in self.weights):
            raise ValueError(f"weights: expected numbers above 0, got {self.weights}")
        return self


class OptimSettings(Settings):
    """Optimiser and learning-rate schedule. The defaults are those of Keras."""

    name: Annotated[Literal["adam", "rmsprop", "sgd"], OR_OWN] = Field("adam", description="optimiser")
    learning_rate: float = Field(0.001, gt=0, description="step size; where a schedule begins")
    encoder_learning_rate: float | None = Field(
        None, gt=0, description="step size of a pretrained encoder's weights, scheduled alike (default: learning_rate)"
    )
    beta_1: Annotated[float, Only("name", "adam")] = Field(0.9, ge=0, lt=1, description="decay of the first moment")
    beta_2: Annotated[float, Only("name", "adam")] = Field(0.999, ge=0, lt=1, description="decay of the second moment")
    amsgrad: Annotated[bool, Only("name", "adam")] = Field(
        False, description="divide by the root of the largest second moment so far, in place of the newest (AMSGrad)"
    )
    rho: Annotated[float, Only("name", "rmsprop")] = Field(
        0.9, ge=0, lt=1, description="decay of the squared gradients' mean"
    )
    centered: Annotated[bool, Only("name", "rmsprop")] = Field(
        False, description="divide by the root of the gradients' variance, in place of their mean square"
    )
    epsilon: Annotated[float, Only("name", "adam", "rmsprop")] = Field(
        1e-7, gt=0, description="added to the root before bias correction (adam), or inside it (rmsprop), as in Keras"
    )
    momentum: Annotated[float | None, Only("name", "sgd", "rmsprop")] = Field(
        None, ge=0, lt=1, description="momentum (sgd, default 0.9; rmsprop, default 0)"
    )
    nesterov: Annotated[bool, Only("name", "sgd")] = Field(True, description="Nesterov momentum")
    clip_norm: float | None = Field(None, gt=0, description="largest gradient norm (default: no clipping)")
    weight_decay: float = Field(
        0.0,
        ge=0,
        description="decay of all weights: apart from the gradient (adam), or that share added to it (rmsprop, sgd)",
    )
    schedule: Annotated[Literal["constant", "exponential", "cosine", "plateau", "step"], OR_OWN] = Field(
        "constant", description="how the learning rate changes: at every step, or (plateau) after epochs without gain"
    )
    warmup_epochs: int = Field(
        0, ge=0, description="epochs in which the rate rises to learning_rate, before the schedule"
    )
    step_epochs: Annotated[int, Only("schedule", "step")] = Field(
        10, ge=1, description="epochs after which the rate is multiplied by step_factor"
    )
    step_factor: Annotated[float, Only("schedule", "step")] = Field(
        0.5, gt=0, le=1, description="factor per step_epochs"
    )
    decay_steps: Annotated[int, Only("schedule", "exponential")] = Field(
        1000, ge=1, description="steps in which the rate falls by decay_rate"
    )
    decay_rate: Annotated[float, Only("schedule", "exponential")] = Field(
        0.96, gt=0, le=1, description="factor per decay_steps"
    )
    staircase: Annotated[bool, Only("schedule", "exponential")] = Field(
        True, description="fall once per decay_steps, not at every step"
    )
    alpha: Annotated[float, Only("schedule", "cosine")] = Field(
        0.1, ge=0, le=1, description="last rate as a share of learning_rate"
    )
    final_learning_rate: Annotated[float | None, Only("schedule", "cosine")] = Field(
        None, ge=0, description="last rate of all weights, those of encoders, too, in place of alpha (null: alpha)"
    )
    restarts: Annotated[Literal["none", "unfreezing"], Only("schedule", "cosine")] = Field(
        "none", description="unfreezing: begin anew whenever more of the model is trained, over what is left"
    )
    plateau_patience: Annotated[int, Only("schedule", "plateau")] = Field(
        5, ge=1, description="lower after so many epochs without a better metric"
    )
    plateau_factor: Annotated[float, Only("schedule", "plateau")] = Field(
        0.5, gt=0, lt=1, description="what the rate is multiplied with"
    )
    plateau_min_delta: Annotated[float, Only("schedule", "plateau")] = Field(
        1e-4, ge=0, description="a smaller gain does not count as better"
    )
    min_learning_rate: Annotated[float, Only("schedule", "plateau")] = Field(
        1e-6, ge=0, description="the rate is not lowered below this"
    )

    @model_validator(mode="after")
    def _falls_to_its_end(self) -> "OptimSettings":
        for name in ("learning_rate", "encoder_learning_rate"):
            if (first := getattr(self, name)) is not None and (self.final_learning_rate or 0) > first:
                raise ValueError(
                    f"final_learning_rate: expected at most {name} ({first:g}), got {self.final_learning_rate:g}"
                )
        return self


class TrainingSettings(Settings):
    """Epochs, batches, early stopping."""

    batch_size: int = Field(32, ge=1, description="clips per step, over all workers of a trial")
    epochs: int = Field(50, ge=1, description="most epochs of a trial")
    patience: int | None = Field(
        10, ge=1, description="stop after so many epochs without a better metric (null: never)"
    )
    min_delta: float = Field(0.0, ge=0, description="a smaller gain does not count as better for early stopping")
    keep: Literal["best", "last"] = Field(
        "best", description="the epoch that a trial is ranked by and retrained for; last suits a schedule that runs out"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: mixed precision on a GPU (bf16 where it has it, else fp16), fp32 on CPU"
    )

    @model_validator(mode="after")
    def _the_last_epoch_is_known(self) -> "TrainingSettings":
        if self.keep == "last" and self.patience is not None:
            raise ValueError(f"patience: expected null where the last epoch is kept (keep=last), got {self.patience}")
        return self


# What a model costs, whatever it learns, as `search.second_metric` names it.
COSTS = ("parameters", "size_mb", "latency_ms")


class SearchSettings(Settings):
    """Which trials are run, which are stopped early, and what ranks them."""

    algorithm: Literal["grid", "random", "optuna"] = Field("random", description="who proposes the trials")
    num_trials: int | None = Field(
        None, ge=1, le=1_000_000, description="number of trials (random, optuna; a grid has its own)"
    )
    metric: str = Field(
        "val_loss", description="what ranks the trials, by each trial's best epoch (split.inner_folds: mean over folds)"
    )
    second_metric: Literal["parameters", "size_mb", "latency_ms"] | None = Field(
        None,
        description="what of a model is to be small, too: the leaderboard marks the trials that are best for their "
        "size (the Pareto front), and optuna's samplers seek both",
    )
    sampler: Annotated[Literal["tpe", "gp", "qmc", "random", "cmaes"], Only("algorithm", "optuna")] = Field(
        "tpe", description="Optuna's sampler"
    )
    points_to_evaluate: Annotated[list[dict[str, Any]], Only("algorithm", "random", "optuna")] = Field(
        [], description="configurations tried first, by dotted path"
    )
    scheduler: Annotated[Literal["none", "asha", "median", "hyperband", "pbt"], OR_OWN] = Field(
        "none", description="who stops poor trials early, or lets them take over a better one's weights (pbt)"
    )
    grace_epochs: Annotated[int, Only("scheduler", "asha", "median", "hyperband")] = Field(
        5,
        ge=1,
        description="no trial is stopped before this epoch (with split.inner_folds: before the end of the first fold)",
    )
    reduction_factor: Annotated[float, Only("scheduler", "asha", "hyperband")] = Field(
        3.0, gt=1, description="one trial in so many continues at each rung"
    )
    brackets: Annotated[int, Only("scheduler", "hyperband")] = Field(
        3,
        ge=1,
        description="groups of trials; each group's first rung, where trials are stopped, is one later than the last's",
    )
    perturb_epochs: Annotated[int, Only("scheduler", "pbt")] = Field(
        5, ge=1, description="epochs after which the poorest trials take over the best ones' weights (pbt)"
    )
    exploit_share: Annotated[float, Only("scheduler", "pbt")] = Field(
        0.25, gt=0, le=0.5, description="share of the trials that take over, and of those they take from (pbt)"
    )
    resample_probability: Annotated[float, Only("scheduler", "pbt")] = Field(
        0.25, ge=0, le=1, description="how often a taken setting is drawn anew, not moved by a fifth or a place (pbt)"
    )
    max_concurrent: int | None = Field(None, ge=1, description="most trials at once (default: as many as fit)")
    time_budget_minutes: float | None = Field(None, gt=0, description="stop the search after so long")


class ResourceSettings(Settings):
    """What one trial takes."""

    backend: Literal["auto", "direct", "train"] = Field(
        "auto",
        description="how a trial trains; direct: in the process of its Ray Tune trial, which starts in a second; "
        "train: in a worker group of Ray Train's TorchTrainer, which takes several; auto: train for several workers, "
        "and on a GPU for trials of minutes, else direct",
    )
    workers_per_trial: int = Field(1, ge=1, description="data-parallel workers of one trial (DDP above 1)")
    cpus_per_worker: int = Field(1, ge=1, description="CPU cores and threads of a worker")
    gpus_per_worker: float | None = Field(
        None, ge=0, description="GPUs of a worker, whole or a fraction (default: 1 if any)"
    )
    gpu_features: bool = Field(
        True, description="compute features and encoders on GPUs, where Ray has any, while CPUs read and write"
    )
    max_restarts: int = Field(
        3, ge=0, description="how often a trial is resumed from its last checkpoint after its worker or node died"
    )
    price_per_hour: float | None = Field(
        None, gt=0, description="what a machine costs an hour, for the estimate of --dry-run probe=true (their mean)"
    )
    currency: str = Field("USD", min_length=1, description="of price_per_hour")

    @model_validator(mode="after")
    def _consistent(self) -> "ResourceSettings":
        gpus = self.gpus_per_worker
        if self.backend == "direct" and self.workers_per_trial > 1:
            raise ValueError(
                f"backend: expected auto or train for {self.workers_per_trial} workers_per_trial, got direct"
            )
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise ValueError(f"gpus_per_worker: expected a fraction up to 1 or a whole number, got {gpus:g}")
        return self


class Config(Settings):
    """One trial's plain values, by section."""

    task: TaskSettings = Field(default_factory=TaskSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    split: SplitSettings = Field(default_factory=SplitSettings)
    features: FeatureSettings = Field(default_factory=FeatureSettings)
    augment: AugmentSettings = Field(default_factory=AugmentSettings)
    model: CRNNSettings = Field(default_factory=CRNNSettings)
    loss: LossSettings = Field(default_factory=LossSettings)
    optim: OptimSettings = Field(default_factory=OptimSettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    gan: GANSettings = Field(default_factory=GANSettings)
    search: SearchSettings = Field(default_factory=SearchSettings)
    resources: ResourceSettings = Field(default_factory=ResourceSettings)
    seed: int = Field(42, ge=0, le=2**32 - 1, description="seed of the search, of every trial's weights and batches")

    @property
    def own(self) -> OwnFunctions:
        """The user's own functions that the settings name."""
        return own_functions(flattened(self.model_dump()))

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Take over what a process of this user has pickled; the code that it names was allowed there."""
        super().__setstate__(state)
        allow(path for _, path in named_code(self.model_dump()))

    @model_validator(mode="after")
    def _loss_of_the_task(self) -> "Config":
        classes = self.task.name == "classification"
        if classes and "name" not in self.loss.model_fields_set:
            self.loss = self.loss.model_copy(update={"name": "cross_entropy"})
        is_own = ":" in self.loss.name
        if not is_own and classes != (self.loss.name == "cross_entropy"):
            raise ValueError(f"loss.name: expected one for {self.task.name}, got {self.loss.name}")
        return self

    @model_validator(mode="after")
    def _layers_to_weigh(self) -> "Config":
        name, layers = self.features.name, self.features.encoder_layers
        several = layers == "all" or (isinstance(layers, list) and len(layers) > 1)
        if self.model.encoder_training is not None:
            return self._trained_encoder()
        if self.model.layer_weights == "learnt" and not (name == "encoder" and several):
            got = f"features.encoder_layers={layers}" if name == "encoder" else f"features.name={name}"
            raise ValueError(
                f"model.layer_weights: expected null unless features.name=encoder has several encoder_layers, "
                f"got {self.model.layer_weights} with {got}"
            )
        return self

    @model_validator(mode="after")
    def _checkpointing_of_an_encoder(self) -> "Config":
        if self.model.gradient_checkpointing and self.model.encoder_training is None:
            raise ValueError(
                "model.gradient_checkpointing: expected false without model.encoder_training, whose layers it is of, "
                "got true"
            )
        return self

    def _trained_encoder(self) -> "Config":
        features, training = self.features, f"model.encoder_training={self.model.encoder_training}"
        if self.model.encoder_setting is not None:
            raise ValueError(
                f"model.encoder_training: expected null with model.name={self.model.name}, which has an encoder of its "
                f"own, got {self.model.encoder_training}"
            )
        for name, only in (("name", "encoder"), ("encoder_pooling", "frames"), ("normalise", "none")):
            if (got := getattr(features, name)) != only:
                raise ValueError(f"features.{name}: expected {only} with {training}, got {got}")
        if not isinstance(features.encoder_layers, int) or features.encoder_layers < 0:
            raise ValueError(
                f"features.encoder_layers: expected the number of a layer, from 0, with {training}, whose layers are "
                f"those behind it, got {features.encoder_layers}"
            )
        return self

    @model_validator(mode="after")
    def _models_of_one_frame(self) -> "Config":
        if not self.features.is_pooled:
            return self
        pooled_by = self.features.pooled_by
        if self.model.name in MODELS and self.model.name not in OF_ONE_FRAME:
            raise ValueError(
                f"model.name: expected {' or '.join(OF_ONE_FRAME)} with {pooled_by}, by which a clip is one frame, "
                f"got {self.model.name}"
            )
        if self.augment.time_masks:
            raise ValueError(
                f"augment.time_masks: expected 0 with {pooled_by}, by which a clip is one frame, "
                f"got {self.augment.time_masks}"
            )
        return self

    @model_validator(mode="after")
    def _scale_of_groups(self) -> "Config":
        if self.features.normalise == "none" and self.model.encoder_training is None:
            for name in ("time_masks", "freq_masks"):
                if value := getattr(self.augment, name):
                    raise ValueError(
                        f"augment.{name}: expected 0 with features.normalise=none, since what is masked becomes 0, "
                        f"which is loud, got {value}"
                    )
        if self.features.normalise != "group":
            return self
        for name, why in (
            ("freq_masks", "whose masked value is the mean of the training clips"),
            ("synthetic_share", "since generated clips are nobody's"),
        ):
            if value := getattr(self.augment, name):
                raise ValueError(f"augment.{name}: expected 0 with features.normalise=group, {why}, got {value:g}")
        return self

    @model_validator(mode="after")
    def _no_mixture_of_texts(self) -> "Config":
        if self.model.text_input is not None and self.augment.mixup_prob > 0:
            raise ValueError(
                f"augment.mixup_prob: expected 0 with model.name={self.model.name}, whose texts can't be mixed, "
                f"got {self.augment.mixup_prob:g}"
            )
        return self

    @model_validator(mode="after")
    def _clips_of_a_gan(self) -> "Config":
        if (share := self.augment.synthetic_share) == 0:
            return self
        if self.split.inner_folds is not None:
            raise ValueError(
                f"augment.synthetic_share: expected 0 with split.inner_folds, each of which would need a GAN of its "
                f"own, got {share:g}"
            )
        if self.model.text_input is not None:
            raise ValueError(
                f"augment.synthetic_share: expected 0 with model.name={self.model.name}, no lyrics being made, "
                f"got {share:g}"
            )
        if self.features.name != "mel" or self.features.deltas:
            got = f"{self.features.name} with deltas={self.features.deltas}"
            raise ValueError(
                f"features.name: expected mel without deltas with augment.synthetic_share, since spectrograms are "
                f"generated, got {got}"
            )
        if self.task.name != "regression":
            raise ValueError("augment.synthetic_share: expected 0 for classification, since a GAN is asked for numbers")
        return self

    @model_validator(mode="after")
    def _unfreezing_within_the_epochs(self) -> "Config":
        epochs = self.model.unfreezing
        if self.optim.restarts == "unfreezing" and (epochs is None or self.optim.schedule != "cosine"):
            where = f"model.name={self.model.name}" if epochs is None else f"optim.schedule={self.optim.schedule}"
            raise ValueError(
                f"optim.restarts: expected none with {where} (it takes cosine and a model that is unfrozen in stages), "
                "got unfreezing"
            )
        if epochs and epochs[-1] > self.training.epochs:
            raise ValueError(
                f"model.unfreeze_epochs: expected epochs up to training.epochs ({self.training.epochs}), got {epochs}"
            )
        return self

    @model_validator(mode="after")
    def _one_worker_for_inner_folds(self) -> "Config":
        workers = self.resources.workers_per_trial
        if self.split.inner_folds is not None and workers > 1:
            raise ValueError(
                f"resources.workers_per_trial: expected 1 with split.inner_folds, whose folds are trained one after "
                f"the other by one worker, got {workers}"
            )
        return self


class RunSettings(Settings):
    """What the command line alone says."""

    space: str = Field("crnn", description="name of a space in search_spaces/, or the path of a YAML file")
    preset: str | None = Field(
        None,
        description="values for a situation: small, large, imbalanced, quick, fast, low_memory, overfitting or "
        "underfitting",
    )
    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        max_length=150,  # a file's name has at most 255 bytes, and an archived search a longer one
        description="the search's name (default: the space's)",
    )
    storage: str = Field("results", description="folder or URI (s3://, gs://) of the searches, each under its name")
    fresh: bool = Field(False, description="archive an earlier search of this name and begin anew")
    mlflow: str | None = Field(
        None, description="URI of an MLflow server or store that each trial is logged to as a run, too"
    )
    allow_code: bool = Field(
        False, description="also run code that only the record of an earlier search names (package.module:name)"
    )
    probe: bool = Field(False, description="with --dry-run: measure a few steps and estimate the time")


# Where files are kept when neither the command line nor the space says so: the environment of a cluster's nodes names
# places that all of them see.
PLACES = {"storage": "TUNING_STORAGE", "data.prepared": "TUNING_PREPARED", "data.root": "TUNING_DATA"}


def default_places() -> dict[str, str]:
    """The settings of `PLACES` whose environment variables are set."""
    return {path: os.environ[name] for path, name in PLACES.items() if os.environ.get(name)}


def naming_variables(message: str) -> str:
    """An error's message with the environment variable behind each place that it finds wrong, if one set it."""
    lines = message.splitlines()
    for path, value in default_places().items():
        told = f" (set by the environment variable {PLACES[path]})"
        lines = [line + told if line.startswith(f"{path}: ") and value in line else line for line in lines]
    return "\n".join(lines)


@functools.cache
def model_settings(name: str) -> type[ModelSettings]:
    """Return the settings class of a model by name or by `package.module:Class`: its `Class.Settings`.

    Where there is a module `package.module_settings`, they are its `ClassSettings`, so that torch is not imported.

    Raises:
        ValueError: no such model, or one without settings.
    """
    path = MODELS.get(name, name)
    attribute, light = path.partition(":")[2], None
    if attribute:
        with suppress(ModuleNotFoundError):
            light = importlib.import_module(f"{module_of('model.name', path, 'class')}_settings")
    settings = getattr(light, f"{attribute}Settings", None) or getattr(import_model(name), "Settings", None)
    if not (isinstance(settings, type) and issubclass(settings, BaseModel) and "name" in settings.model_fields):
        raise ValueError(f"model.name: expected '{name}' to have Settings, a pydantic model with a field 'name'")
    return as_model_settings(settings)


def import_model(name: str) -> Any:
    """Return the class of a model by name or by `package.module:Class`.

    Raises:
        ValueError: no such name, module or class.
    """
    if ":" not in (path := MODELS.get(name, name)):
        known, hint = ", ".join(MODELS), did_you_mean(name, MODELS)
        raise ValueError(f"model.name: expected one of {known}, or package.module:Class, got {name}{hint}")
    return imported("model.name", path, "class")


@dataclass(frozen=True)
class Parts:
    """What a configuration names that brings settings of its own.

    Args:
        model: its name, or `package.module:Class`.
        own: the user's own functions, by the setting that names each.
    """

    model: str = "crnn"
    own: OwnFunctions = ()

    @classmethod
    def of(cls, flat: Mapping[str, Any]) -> "Parts":
        """The parts that settings by dotted path name; values may be distributions."""
        return cls(flat.get("model.name", "crnn"), own_functions(flat))


@functools.cache
def config_class(parts: Parts) -> type[Config]:
    """`Config` with the settings of these parts.

    Raises:
        ValueError: no such model or function, or one whose settings can't be read.
    """
    sections: dict[str, type[BaseModel]] = {}
    if (model := model_settings(parts.model)) is not CRNNSettings:
        sections["model"] = model
    for name in dict.fromkeys(setting.partition(".")[0] for setting, _ in parts.own):
        sections[name] = with_own(SECTIONS[name], name, parts.own)
    if not sections:
        return Config
    fields: dict[str, Any] = {name: (section, Field(default_factory=section)) for name, section in sections.items()}
    return create_model("Config", __base__=Config, **fields)


def parse_config(tree: dict[str, Any]) -> Config:
    """A configuration from plain values, nested by section.

    Raises:
        UserError: no such model or function, or one that only a record names.
        ValidationError: values that are not allowed.
    """
    try:
        found = config_class(Parts.of(flattened(tree)))
    except ValueError as error:
        raise UserError(str(error)) from None
    return found.model_validate(tree)


def parse_sent(tree: dict[str, Any]) -> Config:
    """A configuration that a process of this user sent, as of a trial: the code that it names was allowed there."""
    allow(path for _, path in named_code(tree))
    return parse_config(tree)


SECTIONS: dict[str, type[BaseModel]] = {
    name: field.annotation
    for name, field in Config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}

# Sections whose leaves may be searched; the others say how a search is run and must be the same for all trials.
SEARCHABLE = ("features", "augment", "model", "gan", "loss", "optim", "training")

# Of those, what needs shards of its own: every value is prepared before the search. Of `augment` that is what the
# bank holds, and whether mel bands are stored for masks; probabilities decide only how it is drawn from. Of `model` it
# is what says how texts are read.
PREPARED: tuple[str, ...] = (
    *(f"model.{name}" for name in (
        "modalities", "text_encoder", "max_tokens", "text_layers", "text_cache", "text_pooling", "fusion"
    )),
    "features.", "gan.", "augment.versions", "augment.freq_masks", "augment.pitch_semitones", "augment.room_seconds",
    *(f"augment.{name}" for name in AugmentSettings.model_fields if name.endswith("_range")),
)  # fmt: skip

# Settings that may change between two runs of one search: its size, its means and its looks. Where the corpus and the
# lists of its folds lie is among them, because their content is compared by fingerprint, and what is known of encoders,
# because that may come after the search has begun.
NOT_IDENTITY = (
    "search.num_trials", "search.time_budget_minutes", "search.max_concurrent",
    "data.root", "data.fold_lists", "data.prepared", "data.loading", "data.verify", "data.known_encoders",
    "data.known_table", "resources.*",
)  # fmt: skip


def identifying(flat: dict[str, Any]) -> dict[str, Any]:
    """Of settings by path those that make two searches, or two trainings, different ones."""
    sections = tuple(path.removesuffix("*") for path in NOT_IDENTITY if path.endswith("*"))
    return {path: value for path, value in flat.items() if path not in NOT_IDENTITY and not path.startswith(sections)}


def known_fields(parts: Parts = Parts()) -> dict[str, FieldInfo]:
    """Every setting of a configuration with these parts by its dotted path, in order."""
    fields: dict[str, FieldInfo] = {}
    for name, field in config_class(parts).model_fields.items():
        if name in SECTIONS:
            section = cast("type[BaseModel]", field.annotation)
            fields |= {f"{name}.{leaf}": leaf_field for leaf, leaf_field in section.model_fields.items()}
        else:
            fields[name] = field
    return fields


def without_effect(flat: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the settings that no trial reads, because they count only for other choices than those of the space.

    Args:
        flat: every setting by dotted path; values may be distributions.

    Returns:
        By path the choices that the setting counts for and those that are made, as `optim.name=adam`, `optim.name=sgd`.
    """
    found = {}
    fields = known_fields(Parts.of(flat))
    for path, field in fields.items():
        for only in (part for part in field.metadata if isinstance(part, Only)):
            choice = f"{path.partition('.')[0]}.{only.setting}"
            value = flat[choice]
            listed = next(iter(value.values())) if isinstance(value, dict) else value  # of a distribution
            made = listed if isinstance(listed, list | tuple) else [listed]
            if isinstance(value, dict) and "when" in value:  # where that does not hold
                made = [*made, *({"mse", "cross_entropy"} if choice == "loss.name" else [fields[choice].default])]
            if set(made).isdisjoint(only.choices) and not any("${" in name for name in made):
                found[path] = tuple(f"{choice}={' or '.join(names)}" for names in (only.choices, made))
    return found


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """`{"optim.name": x, "seed": 1}` as `{"optim": {"name": x}, "seed": 1}`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        section, _, leaf = path.partition(".")
        if leaf:
            tree.setdefault(section, {})[leaf] = value
        else:
            tree[section] = value
    return tree


def flattened(tree: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `nested` for a dumped `Config`."""
    flat: dict[str, Any] = {}
    for section, value in tree.items():
        if section in SECTIONS:
            flat |= {f"{section}.{leaf}": leaf_value for leaf, leaf_value in value.items()}
        else:
            flat[section] = value
    return flat
