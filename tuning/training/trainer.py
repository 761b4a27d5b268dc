"""Train one configuration: epochs, validation, early stopping, checkpoints. Batches in, rows out; no Ray."""

from __future__ import annotations

import io
import math
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from tuning.config.schema import Config
from tuning.experiment.checkpoint_claim import Claim
from tuning.experiment.faults import whole_or_absent
from tuning.training.early_stopping import next_wait, why_ended
from tuning.training.gradient_accumulation import Batch, Parts, has_batch_norm
from tuning.training.optimizers import make_optimizer, parameter_groups
from tuning.training.ranking import Mode, better
from tuning.training.schedules import make_plateau, make_schedule
from tuning.training.tasks import Task

# Clips per validation batch: memory, not results, depends on it.
VALIDATION_BATCH = 128

# Fields of a trainer that its checkpoint keeps.
OWN_STATE = ("epoch", "steps", "base_rate", "wait", "mark", "finished", "best", "best_epoch", "recent", "clips_at_once")

# A checkpoint keeps this many of the latest rows: the process that records a worker group's rows may be killed while
# they are on their way, and a resumed training reports them again.
RECENT = 4


class Data(Protocol):
    """Batches and labels that a trainer reads; the loaders in `tuning.datasets.loaders` have them."""

    @property
    def train_targets(self) -> np.ndarray:
        """Labels of the training split [N, K]."""
        ...

    def train_batches(
        self, epoch: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """One epoch of shuffled batches: `features` [B, T, F], `targets` [B, K], `num_clips` over all workers.

        `num_frames` [B], where there is any, are the frames of each clip that are not padding; `text` and
        `num_tokens` [B] are what a model reads of each clip's text.
        """
        ...

    def val_batches(self, batch_size: int) -> Iterator[Batch]:
        """The validation split in fixed order."""
        ...

    def num_batches(self, batch_size: int, world_size: int = 1) -> int:
        """Batches of one training epoch, the same on every worker."""
        ...


class Trainer:
    """Train one configuration.

    Args:
        model: maps features [B, T, F], and num_frames [B], text and num_tokens where batches have them, to outputs
            [B, K]; see `tuning.models.base.Model` for what else is asked of it.
        data: batches.
        task: loss and metrics.
        config: the trial's settings.
        mode: direction of `config.search.metric`.
        device: where the model runs.
        checkpoints: folder for `best.pt` and `last.pt`; None keeps nothing.
        rank: number of this worker among `world_size` data-parallel ones. Each takes every `world_size`-th clip of a
            batch and has random numbers of its own for dropout.
        splits: whether a batch that does not fit into memory is trained in parts whose gradients are added up. Batch
            norm then has the statistics of a part. With several workers, which wait for each other at every step,
            running out of memory is an error; `clips_at_once` says what fits.
        clips_at_once: most clips that go through the model together; None: all of a batch.
        longer: how many times as many steps an epoch has as in the training that the settings were chosen in.
        about: what `best.pt` has besides weights and row, so that the model can be built and used from it alone.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        task: Task,
        config: Config,
        mode: Mode,
        *,
        device: torch.device | None = None,
        checkpoints: Path | None = None,
        rank: int = 0,
        world_size: int = 1,
        splits: bool = True,
        clips_at_once: int | None = None,
        longer: float = 1.0,
        about: dict[str, Any] | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.model: Any = model.to(self.device)
        self.forward: nn.Module = model
        self.data, self.task, self.config, self.mode = data, task, config, mode
        self.checkpoints, self.rank, self.world_size = checkpoints, rank, world_size
        self.about = about or {}
        fewest = 2 if has_batch_norm(model) else 1
        self.parts = Parts(fewest, splits and world_size == 1, clips_at_once)
        self.val_parts = Parts(splits=splits)
        self.training_loss = task.training_loss(data.train_targets)
        self.loss_per_clip = task.loss_per_clip()
        self.optimizer = make_optimizer(parameter_groups(model, config.optim), config.optim)
        settings, groups = config.training, self.optimizer.param_groups
        # The epochs from which on more of the model is trained.
        self.unfreezing = sorted({group["first_epoch"] for group in groups if group["first_epoch"] > 1})
        num_batches = data.num_batches(settings.batch_size, world_size)
        self.schedule = make_schedule(config.optim, settings.epochs, num_batches, self.unfreezing, longer)
        self.plateau = make_plateau(config.optim, mode)
        # Optimiser steps done, and the learning rate that the schedule starts from: only a plateau changes it.
        self.steps, self.base_rate = 0, config.optim.learning_rate
        self.amp_dtype = _amp_dtype(config.training.precision, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp_dtype is torch.float16)
        self.epoch, self.wait, self.finished = 0, 0, ""
        self.best: float | None = None
        self.best_epoch = 0
        # The value that early stopping compares with. As in Keras it changes only when beaten by more than min_delta.
        self.mark: float | None = None
        self.claim: Claim | None = None
        # The latest rows; the last is that of `epoch`.
        self.recent: list[dict[str, Any]] = []
        self.enter_stage()
        if world_size > 1:
            self.forward = nn.parallel.DistributedDataParallel(model)

    def fit(self, report: Callable[[dict[str, Any]], None]) -> None:
        """Train to the end, from the last checkpoint if there is one; `report` gets a row after each epoch.

        A row has: `epoch`, from 1; `train_loss` and `penalty`; `val_loss` without penalties; the task's metrics as
        `val_*`; `learning_rate` of the last step; with weights that are unfrozen in stages also theirs as
        `learning_rate_stage_1`, ... (0 before), and the number of weights that are trained, `trained_parameters`;
        `<metric>_best` and `best_epoch`; `seconds`; and `finished`, empty or why the training ended.

        Raises:
            FloatingPointError: a loss or the ranking metric is NaN or infinite.
        """
        self.resume()
        for row in self.recent:  # perhaps not recorded yet when the training was cut off
            report(row)
        try:
            while not self.finished:
                report(self.one_epoch())
        finally:
            if self.claim:
                self.claim.release()

    def follow(self, epochs: int, base_rates: Sequence[float] = ()) -> None:
        """Repeat the course of an earlier training, without validation: its epochs and its learning rates.

        Args:
            epochs: number of epochs.
            base_rates: the rate that the schedule starts from in each epoch; empty: as the settings say.
        """
        for _ in range(epochs):
            self.epoch += 1
            if base_rates:
                self.base_rate = base_rates[self.epoch - 1]
            self.train_epoch()

    def one_epoch(self) -> dict[str, Any]:
        """Train and validate for an epoch, save a checkpoint, and return the row."""
        started = time.perf_counter()
        self.epoch += 1
        row = self.train_epoch()
        row |= self.agree(self.validate() if self.rank == 0 else {})
        row |= self.judge(row)
        row["seconds"] = time.perf_counter() - started
        self.keep(row, improved=self.best_epoch == self.epoch)
        return row

    def keep(self, row: dict[str, Any], improved: bool) -> None:
        """Add a row to the latest ones; the first worker saves a checkpoint with it."""
        self.recent = [*self.recent, row][-RECENT:]
        if self.rank == 0:
            self.save(improved)

    def enter_epoch(self, epoch: int) -> None:
        """Prepare for the steps of an epoch: unfreeze what is trained in it, and switch to training mode."""
        self.epoch = epoch
        self.enter_stage()
        self.forward.train()

    def enter_stage(self) -> None:
        """Unfreeze the weights that are trained in `epoch`, and freeze those that are trained later."""
        changed = False
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                changed |= parameter.requires_grad != self._is_trained(group)
                parameter.requires_grad_(self._is_trained(group))
        if changed and isinstance(self.forward, nn.parallel.DistributedDataParallel):
            # DDP knows only the weights that required a gradient when it was made.
            self.forward = nn.parallel.DistributedDataParallel(self.model)

    def _is_trained(self, group: dict[str, Any]) -> bool:
        return bool(group["first_epoch"] <= max(self.epoch, 1))

    def train_epoch(self) -> dict[str, float]:
        """Train on every clip once; return the mean loss, the penalty at the end, and the last learning rates."""
        self.enter_stage()
        self._draw_apart()
        self.forward.train()
        settings = self.config.training
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        count = 0
        workers = (self.rank, self.world_size)
        for batch in self.data.train_batches(self.epoch, settings.batch_size, self.config.seed, *workers):
            total += self.step(batch)
            count += batch["num_clips"]
        if self.world_size > 1:
            torch.distributed.all_reduce(total)
        with torch.no_grad():
            row = {"train_loss": (total / count).item(), "penalty": float(self.model.penalty())}
        for name, value in row.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"{name} is {value} in epoch {self.epoch}")
        row["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        staged = [group for group in self.optimizer.param_groups if group["first_epoch"] > 1]
        if staged:
            row["trained_parameters"] = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        return row | {f"learning_rate_stage_{number}": group["lr"] for number, group in enumerate(staged, start=1)}

    def _draw_apart(self) -> None:
        """Seed every worker but the first anew for the epoch, so that workers draw different dropout.

        All workers start from the same seed, for equal weights, and a checkpoint holds the first one's random state.
        """
        if self.rank > 0:
            key = np.random.SeedSequence([self.config.seed, self.epoch, self.rank])
            torch.manual_seed(int(key.generate_state(1, np.uint64)[0]))

    def step(self, batch: Batch) -> torch.Tensor:
        """Make one optimiser step on this worker's part of a batch; return the summed loss of the part."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(group) if self._is_trained(group) else 0.0
        self.steps += 1
        loss_sum = self.parts.run(batch, self._gradients)
        if self.config.optim.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss_sum

    def _rate(self, group: dict[str, Any]) -> float:
        """Return a group's learning rate at this step: its own schedule's, since an end or a floor is an own rate."""
        first, factor = self.config.optim.learning_rate, group["rate_factor"]
        base = self.base_rate * factor
        if self.plateau and factor != 1:
            base = self.plateau.lowered(first * factor, self.base_rate / first)
        return self.schedule(self.steps, base)

    def _gradients(self, parts: list[Batch]) -> torch.Tensor:
        """Compute the gradient of a batch, in several parts if it did not fit into memory; return its summed loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss_sums = []
        for number, part in enumerate(parts, start=1):
            last = number == len(parts)
            with self.forward.no_sync() if self.world_size > 1 and not last else nullcontext():  # type: ignore[operator]
                loss_sum = self._loss_sum(part)
                # DDP averages over workers: scaled so that the average is the mean over the whole batch.
                objective = loss_sum * (self.world_size / part["num_clips"])
                self.scaler.scale(objective + self.model.penalty() if last else objective).backward()
            loss_sums.append(loss_sum.detach().double())
        return sum(loss_sums[1:], loss_sums[0])

    def _loss_sum(self, batch: Batch) -> torch.Tensor:
        targets = batch["targets"].to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, self.amp_dtype, enabled=self.amp_dtype is not None):
            outputs = self.forward(*model_inputs(batch, self.device))
        losses = self.training_loss(outputs.float(), targets)
        if "partner_targets" in batch:  # every clip was mixed with another, whose loss counts for the rest
            partners = self.training_loss(outputs.float(), batch["partner_targets"].to(self.device))
            losses = batch["mix"] * losses + (1 - batch["mix"]) * partners
        return losses.sum()

    @torch.no_grad()
    def predict(self, batch: Batch) -> torch.Tensor:
        """Return the outputs [B, K] for a batch, without dropout."""
        self.model.eval()
        return self.val_parts.run(batch, lambda parts: torch.cat([self._outputs(part) for part in parts]))

    def _outputs(self, batch: Batch) -> torch.Tensor:
        with torch.autocast(self.device.type, self.amp_dtype, enabled=self.amp_dtype is not None):
            found: torch.Tensor = self.model(*model_inputs(batch, self.device)).float()
            return found

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return loss and metrics over the whole validation split."""
        outputs, targets, losses = [], [], []
        for batch in self.data.val_batches(VALIDATION_BATCH):
            wanted = batch["targets"].to(self.device)
            predicted = self.predict(batch)
            losses.append(self.loss_per_clip(predicted, wanted).cpu().numpy())
            outputs.append(predicted.cpu().numpy())
            targets.append(batch["targets"].numpy())
        loss = float(np.concatenate(losses).astype(np.float64).mean())
        if not math.isfinite(loss):
            raise FloatingPointError(f"val_loss is {loss} in epoch {self.epoch}")
        metrics = self.task.metrics(np.concatenate(targets), np.concatenate(outputs))
        return {"val_loss": loss} | {f"val_{name}": value for name, value in metrics.items()}

    def judge(self, row: dict[str, Any]) -> dict[str, Any]:
        """Compare the epoch with the best so far, and decide whether it was the last."""
        metric, settings = self.config.search.metric, self.config.training
        value = row.get(metric)
        if value is None or not math.isfinite(value):
            raise FloatingPointError(
                f"{metric} is not defined in epoch {self.epoch}: are the predictions constant, "
                "or a target's labels all on one side of 0?"
            )
        margin = settings.min_delta if self.mode == "max" else -settings.min_delta
        gained = self.mark is None or better(self.mode, value, self.mark + margin)
        if gained:
            self.mark = value
        self.wait = next_wait(self.wait, self.epoch, gained, self.unfreezing)
        if self.plateau:
            self.base_rate = self.plateau.after_epoch(value, self.base_rate)
        if settings.keep == "last" or better(self.mode, value, self.best):
            self.best, self.best_epoch = value, self.epoch
        if ended := why_ended(settings, self.epoch, self.wait, self.unfreezing):
            self.finished = "; ".join(filter(None, (ended, self.note)))
        best = {f"{metric}_best": self.best, "best_epoch": self.best_epoch}
        return {"epoch": self.epoch, **best, "finished": self.finished}

    @property
    def clips_at_once(self) -> int | None:
        """Most clips that go through the model together in training; None for whole batches."""
        return self.parts.clips

    @clips_at_once.setter
    def clips_at_once(self, clips: int | None) -> None:
        self.parts.clips = clips

    @property
    def note(self) -> str:
        """A remark on the training, or empty: how many clips go through the model at once where a batch did not fit."""
        if self.clips_at_once is None:
            return ""
        return f"out of memory: gradients of at most {self.clips_at_once} clips at once, added up"

    def agree(self, row: dict[str, float]) -> dict[str, float]:
        """Return the first worker's row on every worker."""
        if self.world_size == 1:
            return row
        rows = [row]
        torch.distributed.broadcast_object_list(rows, src=0)
        return rows[0]

    def save(self, improved: bool) -> None:
        """Write `last.pt`, and `best.pt` when this epoch is the best."""
        if self.checkpoints is None:
            return
        if self.claim:
            self.claim.check()
        weights = self.model.state_dict()
        if improved:
            write_checkpoint(self.checkpoints / "best.pt", {**self.about, "model": weights, "row": self.recent[-1]})
        random_state = {"torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            random_state["cuda"] = torch.cuda.get_rng_state(self.device)
        state = {
            "model": weights,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random_state": random_state,
            "plateau": self.plateau.state_dict() if self.plateau else None,
            "own": {name: getattr(self, name) for name in OWN_STATE},
        }
        write_checkpoint(self.checkpoints / "last.pt", state)

    def resume(self) -> None:
        """Restore everything from `last.pt`, if there is one."""
        if self.checkpoints is not None and self.rank == 0:
            self.claim = Claim(self.checkpoints)
        if self.checkpoints is None or not (self.checkpoints / "last.pt").exists():
            return
        state = read_checkpoint(self.checkpoints / "last.pt", self.device)
        self.model.load_state_dict(state["model"])
        settings = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, own in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(own)  # weights copied from another trial bring its settings along
        self.scaler.load_state_dict(state["scaler"])
        if self.plateau:
            self.plateau.load_state_dict(state["plateau"])
        torch.set_rng_state(state["random_state"]["torch"].cpu())
        if self.device.type == "cuda" and "cuda" in state["random_state"]:
            torch.cuda.set_rng_state(state["random_state"]["cuda"].cpu(), self.device)
        fits = self.clips_at_once
        for name, value in state["own"].items():
            setattr(self, name, value)
        if fits is not None:  # less memory than when the checkpoint was written
            self.clips_at_once = fits


def write_checkpoint(file: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all: after a kill or on a full disk the earlier one is still there."""
    # Given a path, torch would not say why the disk refused; given an open file, it does.
    with whole_or_absent(file) as partial, partial.open("wb") as stream:
        torch.save(state, stream)


class DamagedCheckpointError(ValueError):
    """A checkpoint that can't be read."""


def read_checkpoint(file: Path | bytes, device: torch.device | str) -> Any:
    """Read what `torch.save` wrote, a file or its content, onto a device.

    It is a zip archive, whose checksums `torch.load` ignores.

    Raises:
        DamagedCheckpointError: it is damaged, or has anything but weights, numbers and texts.
    """
    name = f"{file}: " if isinstance(file, Path) else ""
    content = file.read_bytes() if isinstance(file, Path) else file
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"a wrong checksum of {damaged}")
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # a damaged file raises whatever its reader stumbles over
        got = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DamagedCheckpointError(f"{name}expected a checkpoint with weights, got: {got}") from None


def model_inputs(batch: Batch, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Return what a model reads of a batch, in the order of its arguments."""
    features = batch["features"].to(device, non_blocking=True)
    # Numbers are left on the CPU: the model knows there, without waiting for the GPU, whether any clip is padded.
    found = (features, batch["num_frames"]) if "num_frames" in batch else (features,)
    return (*found, batch["text"].to(device, non_blocking=True), batch["num_tokens"]) if "text" in batch else found


def _amp_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    if precision == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
