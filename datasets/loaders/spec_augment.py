"""SpecAugment on batches of normalised features: masks over time and over mel bands; MFCC follow their mel bands."""

from dataclasses import dataclass

import numpy as np
import torch

from tuning.datasets.loaders.in_memory import Batch
from tuning.datasets.settings import AugmentSettings, FeatureSettings, stored_features
from tuning.datasets.store.reader import FeatureStatistics
from tuning.models.torch_audio import functional

TIME_MASK_SHARE = 0.5  # largest share of a clip's valid frames that a time mask covers
MASKS_STREAM = 2  # random stream of masks, apart from those of order and versions


@dataclass(frozen=True)
class Masks:
    """SpecAugment (Park et al. 2019) without time warping. A masked value becomes the mean, 0 after normalisation.

    Frequency masks cover mel bands; MFCC become those of the masked mel bands. The DCT is linear, so the transform of
    the change is added; the same holds for each block of deltas, where a masked band has slope 0.
    """

    settings: AugmentSettings
    features: FeatureSettings  # as stored
    keeps_mel: bool  # whether the model sees the mel bands
    covered: torch.Tensor  # float32 [blocks, num_mels]: normalised value of a masked band
    transform: torch.Tensor  # float32 [blocks, num_mels, num_mfcc]: the DCT between normalised features

    @classmethod
    def of(cls, statistics: FeatureStatistics, features: FeatureSettings, settings: AugmentSettings) -> "Masks | None":
        """Masks for stored features with these statistics, or None if the settings mask nothing."""
        if settings.mask_prob == 0 or settings.time_masks + settings.freq_masks == 0:
            return None
        stored = stored_features(features, settings)
        num_mels, num_mfcc = stored.num_mels, stored.num_mfcc
        blocks = (1 + stored.deltas, -1)
        mean, std = (torch.tensor(x).reshape(blocks) for x in (statistics.mean, statistics.std))
        covered, transform = torch.zeros(0), torch.zeros(0)
        if settings.freq_masks > 0:
            # A masked band has the training mean in dB throughout, so its deltas are 0 before normalisation.
            covered = -mean[:, :num_mels] / std[:, :num_mels]
            covered[0] = 0
            if "mfcc" in stored.parts:
                to_units, to_normal = std[:, :num_mels, None], std[:, None, num_mels : num_mels + num_mfcc]
                transform = to_units * functional.create_dct(num_mfcc, num_mels, "ortho") / to_normal
        return cls(settings, stored, "mel" in features.parts, covered, transform)

    def apply(self, batch: Batch, key: list[int], rank: int, world_size: int) -> None:
        """Mask this worker's rows of the global batch `key` (seed, epoch, number) in place; padding stays 0."""
        generator = torch.Generator().manual_seed(_seed([*key, MASKS_STREAM]))
        count = batch["num_clips"]
        settings, features = self.settings, batch["features"]
        masked = (torch.rand(count, generator=generator) < settings.mask_prob)[rank::world_size]
        shape = (count, settings.time_masks + settings.freq_masks, 2)
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64)[rank::world_size]
        valid = batch["num_frames"]
        longest = (TIME_MASK_SHARE * valid).long().clamp(max=settings.time_mask_frames)
        in_time = spans(uniform[:, : settings.time_masks], longest, valid, features.shape[1])
        in_mel = spans(
            uniform[:, settings.time_masks :],
            torch.full_like(valid, settings.freq_mask_bands),
            torch.full_like(valid, self.features.num_mels),
            self.features.num_mels,
        )
        hidden = in_time & masked[:, None]
        if settings.freq_masks > 0:
            self._mask_bands(features, in_mel & masked[:, None])
            hidden |= torch.arange(features.shape[1]) >= valid[:, None]  # the band masks changed padding, too
        features[hidden] = 0

    def _mask_bands(self, features: torch.Tensor, hidden: torch.Tensor) -> None:
        """Mask mel bands, bool [batch, num_mels], of features [batch, frames, features] in place."""
        num_mels, num_mfcc = self.features.num_mels, self.features.num_mfcc
        blocks = features.unflatten(2, (1 + self.features.deltas, -1))
        for order, covered in enumerate(self.covered):
            mel = blocks[:, :, order, :num_mels]
            change = (covered - mel) * hidden[:, None]
            if self.keeps_mel:
                mel += change
            if "mfcc" in self.features.parts:
                blocks[:, :, order, num_mels : num_mels + num_mfcc] += change @ self.transform[order]


def spans(uniform: torch.Tensor, widest: torch.Tensor, within: torch.Tensor, size: int) -> torch.Tensor:
    """The union, bool [batch, size], of random spans of 0 to `widest` places among the first `within`.

    `uniform` [batch, spans, 2] are random numbers for width and start; `widest` and `within` are int64 [batch].
    """
    width = (uniform[..., 0] * (widest[:, None] + 1)).long()
    start = (uniform[..., 1] * (within[:, None] - width + 1)).long()
    places = torch.arange(size)
    return ((places >= start[..., None]) & (places < (start + width)[..., None])).any(dim=1)


def _seed(key: list[int]) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
