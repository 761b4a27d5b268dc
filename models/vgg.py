"""Audio tower: a VGG-like network on the spectrogram as an image, with squeeze-and-excitation."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tuning.models.bimodal_settings import GATE_REDUCTION, BimodalSettings
from tuning.models.layers import BatchNorm, check_features, clip_lengths, valid_frames, zero_padding
from tuning.models.pooling import mean_over_frames

BN_EPSILON = 1e-5  # PyTorch's default, which the documented network has


def zero_columns(image: Tensor, lengths: Tensor | None) -> Tensor:
    """Return `image` [B, C, F, T] with zeros beyond the clips' `lengths` [B]; unchanged where they are None."""
    if lengths is None:
        return image
    return image.masked_fill(~valid_frames(lengths, image.shape[3]).view(len(lengths), 1, 1, -1), 0)


class NormedConv2d(nn.Module):
    """Convolution, and batch norm that ignores padding frames. [B, in, F, T] -> [B, out, F, T].

    Initial weights are PyTorch's, uniform within ±1 / sqrt(fan_in). The convolution has a bias, though batch norm
    cancels it, because the documented network has one. The moving variance is that of `BatchNorm`: the biased one.
    """

    def __init__(self, in_channels: int, channels: int, kernel_size: int, bn_momentum: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel_size, padding=kernel_size // 2)
        self.norm = BatchNorm(channels, bn_momentum, BN_EPSILON)

    def forward(self, image: Tensor, lengths: Tensor | None) -> Tensor:
        # [B, F, T, C], where each row of mels is a sequence. In channels-last memory nothing is copied.
        rows = self.conv(image).permute(0, 2, 3, 1)
        per_row = None if lengths is None else lengths.repeat_interleave(rows.shape[1])
        return self.norm(rows.flatten(0, 1), per_row).reshape(rows.shape).permute(0, 3, 1, 2)


class ImageBlock(nn.Module):
    """Convolutions with batch norm and ReLU, then optional max pooling by 2. [B, in, F, T] -> [B, channels, F', T'].

    Padding must be zero on input and is zero on output; `lengths` [B] count frames. Only windows that lie wholly in a
    clip are kept, as many as the clip alone has.
    """

    def __init__(self, in_channels: int, channels: int, pools: bool, settings: BimodalSettings) -> None:
        super().__init__()
        widths = [in_channels, *[channels] * settings.convs_per_block]
        kernel_size, momentum = settings.kernel_size, settings.bn_momentum
        self.convs = nn.ModuleList(NormedConv2d(a, b, kernel_size, momentum) for a, b in pairwise(widths))
        self.pool = nn.MaxPool2d(2) if pools else None

    def forward(self, image: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        image = self.convs[0](image, lengths)
        for conv in self.convs[1:]:
            image = conv(zero_columns(image.relu(), lengths), lengths)
        if self.pool is not None:
            # Pooling before the ReLU gives the same, and leaves it a quarter of the values.
            image = self.pool(image)
            lengths = None if lengths is None else lengths // 2
        return zero_columns(image.relu(), lengths), lengths


class SqueezeExcitation(nn.Module):
    """Scale each channel of an image by a gate computed from the means of all channels. [B, C, F, T] -> [B, C, F, T].

    With `lengths` [B] the means leave out padding frames, which must be zero. The layers have no bias, as in the
    documented network. Source: Hu, Shen and Sun 2018, equations 2 to 4.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.narrow = nn.Linear(channels, channels // reduction, bias=False)
        self.wide = nn.Linear(channels // reduction, channels, bias=False)

    def gates(self, image: Tensor, lengths: Tensor | None) -> Tensor:
        """Return the gate of each channel, between 0 and 1, [B, C]."""
        squeezed = mean_over_frames(rows_mean(image), lengths)
        return self.wide(self.narrow(squeezed).relu()).sigmoid()

    def forward(self, image: Tensor, lengths: Tensor | None = None) -> Tensor:
        return image * self.gates(image, lengths)[:, :, None, None]


class FeatureGate(nn.Module):
    """Scale a vector by a gate computed from itself: what squeeze-and-excitation replaced. [B, C] -> [B, C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.narrow = nn.Linear(channels, channels // GATE_REDUCTION)
        self.wide = nn.Linear(channels // GATE_REDUCTION, channels)

    def forward(self, vector: Tensor) -> Tensor:
        return vector * self.wide(self.narrow(vector).relu()).sigmoid()


class AudioTower(nn.Module):
    """Spectrograms [B, T, num_features] -> vectors [B, audio_units[-1]], with a linear last layer.

    In inference a padded clip gives the same vector as alone. A clip that is too short for the poolings is padded with
    zeros to the shortest length that they take. The global mean weighs all positions alike, so that
    squeeze-and-excitation before it is equal to a gate on that mean.
    """

    def __init__(self, settings: BimodalSettings, num_features: int) -> None:
        super().__init__()
        self.num_features, self.min_frames = num_features, 2 ** (len(settings.channels) - 1)
        if num_features < self.min_frames:
            raise ValueError(
                f"model.channels: expected so few blocks that one of {num_features} mels is left after a pooling by 2 "
                f"in all but the last, got {len(settings.channels)}"
            )
        widths = [1, *settings.channels]
        self.blocks = nn.ModuleList(
            ImageBlock(a, b, place < len(settings.channels), settings)
            for place, (a, b) in enumerate(pairwise(widths), 1)
        )
        self.se = SqueezeExcitation(widths[-1], settings.se_reduction) if settings.attention == "se" else None
        self.dense = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([widths[-1], *settings.audio_units]))
        self.gate = FeatureGate(settings.audio_units[-1]) if settings.attention == "feature" else None
        self.dropout = nn.Dropout(settings.audio_dropout)

    def forward(self, features: Tensor, num_frames: Tensor | None = None) -> Tensor:
        return self.vector(*self.sequence(features, num_frames))

    def sequence(self, features: Tensor, num_frames: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the last block's mean over mels [B, T', channels[-1]] and the clips' lengths [B], None if all full.

        Raises:
            ValueError: wrong shapes, or too few frames for the poolings.
        """
        why = f"{len(self.blocks) - 1} poolings (model.channels)"
        check_features(features, self.num_features, self.min_frames, why)
        lengths = clip_lengths(features, num_frames)
        image = zero_padding(features, lengths).transpose(1, 2).unsqueeze(1)
        lengths = None if lengths is None else lengths.clamp(min=self.min_frames)
        # Channels last: oneDNN is a sixth faster with it, and batch norm reads memory in order.
        image = image.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            image, lengths = block(image, lengths)
        return rows_mean(image if self.se is None else self.se(image, lengths)), lengths

    def vector(self, sequence: Tensor, lengths: Tensor | None) -> Tensor:
        """Return the audio vector [B, audio_units[-1]] of what `sequence` returned."""
        vector = mean_over_frames(sequence, lengths)
        for place, dense in enumerate(self.dense):
            vector = dense(self.dropout(F.relu(vector) if place else vector))
        return vector if self.gate is None else self.gate(vector)


def rows_mean(image: Tensor) -> Tensor:
    """Return the mean over an image's mels, [B, C, F, T] -> [B, T, C]."""
    return image.mean(2).transpose(1, 2)
