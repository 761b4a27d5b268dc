"""musicnn, a network that tags music, without its last layer: log mel spectrograms and the states of the others.

Source: Pons and Serra 2019, "musicnn: pre-trained convolutional neural networks for music audio tagging", and the
package musicnn 0.1.0, whose checkpoints are read and whose code, which needs TensorFlow, is not run.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tuning.models.encoder_shapes import (
    MUSICNN_HOP,
    MUSICNN_KERNELS,
    MUSICNN_WIDTH,
    SPEECH_RATE_HZ,
    musicnn_counts,
    numbered,
)
from tuning.models.tensorflow_checkpoint import read_entries, read_tensor
from tuning.models.torch_audio import functional

NUM_MELS, WINDOW = 96, 512
VARIANCE_FLOOR = 1e-3  # that TensorFlow's batch normalization adds to a variance
BLOCK_FRAMES = 256  # of which the widest filters have 12 MB of outputs
PATCH_FRAMES = 187  # three seconds, of which the package gives tags


class Musicnn(nn.Module):
    """musicnn up to its penultimate layer: the front end, three layers in the middle, and one of whole patches.

    Args:
        timbral: filters of each of two heights: over many mel bands and few frames.
        temporal: filters of each of three lengths: over one mel band and many frames.
        middle: values per frame of each layer in the middle.
        penultimate: values of the layer from which the tags are made.
    """

    def __init__(self, timbral: int = 204, temporal: int = 51, middle: int = 64, penultimate: int = 200) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1, VARIANCE_FLOOR)
        counts = [timbral if bands > 1 else temporal for _, bands in MUSICNN_KERNELS]
        self.front = nn.ModuleList(
            nn.Sequential(nn.Conv2d(1, count, kernel), nn.ReLU(), nn.BatchNorm2d(count, VARIANCE_FLOOR))
            for count, kernel in zip(counts, MUSICNN_KERNELS, strict=True)
        )
        self.middle = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(size, middle, MUSICNN_WIDTH, padding="same"),
                nn.ReLU(),
                nn.BatchNorm1d(middle, VARIANCE_FLOOR),
            )
            for size in (sum(counts), middle, middle)
        )
        pooled = 2 * (sum(counts) + 3 * middle)
        self.back = nn.Sequential(
            nn.BatchNorm1d(pooled, VARIANCE_FLOOR),
            nn.Conv1d(pooled, penultimate, 1),
            nn.ReLU(),
            nn.BatchNorm1d(penultimate, VARIANCE_FLOOR),
        )

    def forward(self, log_mels: Tensor) -> tuple[Tensor, ...]:
        """Compute the states [B, frames, values] of each layer: the front end, three in the middle, the penultimate.

        The package cuts a recording into patches of 3 seconds, around which are zeros. Here they are only around all
        of it, and each frame has a patch of its own, of the frames around it that there are.

        Args:
            log_mels: [B, frames, 96].
        """
        states = [self._front(log_mels)]
        for number, block in enumerate(self.middle):
            found = block(states[-1])
            states.append(found + states[-1] if number else found)
        states.append(self._penultimate(torch.cat(states, dim=1)))
        return tuple(state.transpose(1, 2) for state in states)

    def _front(self, log_mels: Tensor) -> Tensor:
        """The strongest band of each filter [B, values, frames], timbral filters first."""
        normalised = self.norm(log_mels[:, None])
        # "Same" padding as TensorFlow's: of an even length the zero that is left over comes last.
        longest = max(length for length, _ in MUSICNN_KERNELS) - 1
        before = longest // 2
        padded = nn.functional.pad(normalised, (0, 0, before, longest - before))
        frames, blocks = log_mels.shape[1], []
        for begin in range(0, frames, BLOCK_FRAMES):
            end, filtered = min(begin + BLOCK_FRAMES, frames), []
            for (length, _), block in zip(MUSICNN_KERNELS, self.front, strict=True):
                first = begin + before - (length - 1) // 2
                filtered.append(block(padded[:, :, first : first + end - begin + length - 1]).amax(dim=3))
            blocks.append(torch.cat(filtered, dim=1))
        return torch.cat(blocks, dim=2)

    def _penultimate(self, states: Tensor) -> Tensor:
        """The penultimate layer [B, values, frames] of the patch around each frame of the other layers' states."""
        frames, half, blocks = states.shape[2], PATCH_FRAMES // 2, []
        for begin in range(0, frames, BLOCK_FRAMES):
            end, first = min(begin + BLOCK_FRAMES, frames), max(0, begin - half)
            near = states[:, :, first : end + half]
            # Maximum and mean of a value stand beside each other.
            pooled = torch.stack([_strongest(near), _mean(near)], dim=2).flatten(1, 2)
            blocks.append(self.back(pooled[:, :, begin - first : end - first]))
        return torch.cat(blocks, dim=2)


def _strongest(values: Tensor) -> Tensor:
    """The maximum over the patch around each frame: [B, values, frames] -> [B, values, frames]."""
    half = PATCH_FRAMES // 2
    found, width = nn.functional.pad(values, (half, half), value=-torch.inf), 1
    while 2 * width <= PATCH_FRAMES:
        found, width = torch.maximum(found[..., :-width], found[..., width:]), 2 * width
    rest = PATCH_FRAMES - width
    return torch.maximum(found[..., : found.shape[2] - rest], found[..., rest:])


def _mean(values: Tensor) -> Tensor:
    """The mean over the patch around each frame: [B, values, frames] -> [B, values, frames]."""
    frames, half = values.shape[2], PATCH_FRAMES // 2
    sums = nn.functional.pad(values.double().cumsum(dim=2), (1, 0))  # in float32 differences of sums lose digits
    places = torch.arange(frames, device=values.device)
    begins, ends = (places - half).clamp(min=0), (places + half + 1).clamp(max=frames)
    return ((sums[..., ends] - sums[..., begins]) / (ends - begins)).to(values.dtype)


def log_mels(waveforms: Tensor) -> Tensor:
    """Compute log mel spectrograms [B, 1 + samples // 256, 96] of waveforms [B, samples] at 16 kHz, as librosa does.

    They are float32. The package rounds powers to float16, in which ten thousand times a power above 6.5, as loud
    music often has, is infinite.
    """
    window = torch.hann_window(WINDOW, device=waveforms.device)
    # Zeros beyond the ends, as librosa has them since 0.10; before, it mirrored the sound there.
    spectrum = torch.stft(
        waveforms, WINDOW, MUSICNN_HOP, window=window, center=True, pad_mode="constant", return_complex=True
    )
    filters = functional.melscale_fbanks(
        WINDOW // 2 + 1, 0.0, SPEECH_RATE_HZ / 2, NUM_MELS, SPEECH_RATE_HZ, norm="slaney", mel_scale="slaney"
    )
    mels = spectrum.abs().square().transpose(1, 2) @ filters.to(waveforms.device)
    return (10000 * mels + 1).log10()


def load_musicnn(folder: Path) -> Musicnn:
    """Return the network of a checkpoint, in evaluation mode.

    Raises:
        ValueError: a file that is missing or damaged, or a checkpoint of another network.
    """
    with torch.device("meta"):  # draws no first weights, which would change what is drawn next
        model = Musicnn(*musicnn_counts(folder))
    model, entries = model.to_empty(device="cpu"), read_entries(folder)
    for name, tensor in _tensors(model):
        if (entry := entries.get(name)) is None:
            raise ValueError(f"'{folder}': expected the weights of a musicnn, found no '{name}'")
        if entry.shape != tensor.shape:
            raise ValueError(
                f"'{folder}': expected the shape {list(tensor.shape)} of '{name}', got {list(entry.shape)}"
            )
        values = torch.frombuffer(bytearray(read_tensor(folder, name, entry)), dtype=torch.float32)
        tensor.copy_(values.reshape(tensor.shape))
    return model.eval()


def _tensors(model: Musicnn) -> Iterator[tuple[str, Tensor]]:
    """The model's tensors laid out as a checkpoint has them, with their names there."""
    back: list[Any] = [*model.back]
    first, dense, _, last = back
    yield "dense/kernel", dense.weight.detach()[:, :, 0].T
    yield "dense/bias", dense.bias.detach()
    blocks: list[Any] = [*model.front, *model.middle]
    for layer, (convolution, _, _) in zip(numbered("conv2d", len(blocks)), blocks, strict=True):
        kernel = convolution.weight.detach()  # [outputs, inputs, frames], in the front end also bands
        flat = kernel.permute(2, 1, 0)[:, :, None] if kernel.ndim == 3 else kernel.permute(2, 3, 1, 0)
        yield f"{layer}/kernel", flat
        yield f"{layer}/bias", convolution.bias.detach()
    norms = [model.norm, *(norm for _, _, norm in blocks), first, last]
    for layer, norm in zip(numbered("batch_normalization", len(norms)), norms, strict=True):
        yield f"{layer}/gamma", norm.weight.detach()
        yield f"{layer}/beta", norm.bias.detach()
        yield f"{layer}/moving_mean", norm.running_mean
        yield f"{layer}/moving_variance", norm.running_var
