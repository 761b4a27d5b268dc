"""Features [frames, features] of a waveform: mel spectrogram, MFCC, chroma and deltas, or an encoder's states."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from tuning.datasets.features.audio import AudioError, cut_segment
from tuning.datasets.features.frames import num_samples
from tuning.datasets.features.speech_encoder import encode
from tuning.datasets.features.threads import one_thread
from tuning.datasets.settings import FeatureSettings
from tuning.models.torch_audio import functional

DELTA_FRAMES = 9  # librosa's default: the frames that a local slope is fitted to
BATCH_SAMPLES = 1 << 24  # of sound: their spectra take a gigabyte where frames overlap fourfold
BLOCK_SAMPLES = 1 << 18  # of frames that a CPU transforms at a time: with their spectra they stay in its cache
TINY = float(np.finfo(np.float32).tiny)


def extract(waveform: np.ndarray, settings: FeatureSettings, num_frames: int) -> tuple[np.ndarray, int]:
    """Compute features float32 [num_frames, num_features] of a waveform [samples], and the number of valid frames.

    A longer waveform is cut to `settings.segment`. After a shorter one come the features of silence (`db_floor` in
    every mel band, zero chroma and deltas), or zeros with an encoder. Silent ends are cut earlier, when the recording
    is decoded (`tuning.datasets.features.audio.excerpt`). Raises AudioError if a value is not finite.
    """
    return checked(extract_all([waveform], settings, num_frames)[0])


def extract_all(
    waveforms: Sequence[np.ndarray], settings: FeatureSettings, num_frames: int, device: str = "cpu"
) -> list[tuple[np.ndarray, int]]:
    """Compute for each waveform what `extract` does, unchecked, on a device; on a GPU in batches of like size."""
    waveforms = [cut_segment(waveform, num_samples(num_frames, settings), settings.segment) for waveform in waveforms]
    if settings.name == "encoder":
        return encode(waveforms, settings, num_frames, device)
    front_end, found = _front_end(settings.model_dump_json(), num_frames, device), list[tuple[np.ndarray, int]]()
    # Sums are the same in a preparation, which runs one process per core, and in a prediction.
    with one_thread(), torch.inference_mode():
        for batch in _batches(waveforms):
            sounds = [torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32)) for waveform in batch]
            padded = sounds[0][None] if len(sounds) == 1 else nn.utils.rnn.pad_sequence(sounds, batch_first=True)
            lengths = torch.tensor([len(sound) for sound in sounds], device=device)
            features, num_valid = front_end(padded.to(device), lengths)
            found += zip(features.cpu().numpy(), num_valid.tolist(), strict=True)
    return found


def _batches(waveforms: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Waveforms in their order, `BATCH_SAMPLES` at a time, padding included, but at least one."""
    batch: list[np.ndarray] = []
    for waveform in waveforms:
        if batch and (len(batch) + 1) * max(map(len, [*batch, waveform])) > BATCH_SAMPLES:
            yield batch
            batch = []
        batch.append(waveform)
    if batch:
        yield batch


def checked(rows: tuple[np.ndarray, int]) -> tuple[np.ndarray, int]:
    """Return features and the number of valid frames as they are. Raises AudioError if a value is not finite."""
    if not np.isfinite(rows[0]).all():
        raise AudioError("features not finite", "NaN or infinite values come out of this recording")
    return rows


@lru_cache(maxsize=8)
def _front_end(settings: str, num_frames: int, device: str) -> "FrontEnd":
    return FrontEnd(FeatureSettings.model_validate_json(settings), num_frames).to(device)


class FrontEnd(nn.Module):
    """Spectral features of a batch of waveforms, on any device, differentiable.

    Columns are the `settings.parts`, then their first deltas, then their second. Frames are centred on multiples of the
    hop. The reference is librosa, whose values these are.

    Args:
        settings: of the features; not those of an encoder.
        num_frames: of the output, valid or not.
    """

    window: Tensor
    cosines: Tensor
    slopes: Tensor
    silence: Tensor

    def __init__(self, settings: FeatureSettings, num_frames: int) -> None:
        super().__init__()
        self.settings, self.num_frames = settings, num_frames
        buffers = {
            "window": torch.hann_window(settings.window_samples),
            "cosines": functional.create_dct(settings.num_mfcc, settings.num_mels, "ortho").T,
        }
        filters = {}
        if {"mel", "mfcc"} & set(settings.parts):
            filters["mel"] = mel_filters(settings)
        if "chroma" in settings.parts:
            filters["chroma"] = pitch_class_filters(settings)
        self.bands = list(filters)
        buffers |= {f"{name}_filters": values for name, values in filters.items()}
        if settings.deltas:
            # Takes a second to import.
            from scipy.signal import savgol_coeffs

            fits = [savgol_coeffs(DELTA_FRAMES, order, deriv=order, use="dot") for order in (1, 2)]
            buffers["slopes"] = torch.from_numpy(np.stack(fits).astype(np.float32))
        silent_mel = torch.full((settings.num_mels,), settings.db_floor)
        silent_mfcc = (buffers["cosines"].double() @ silent_mel.double()).float()
        silent = {"mel": silent_mel, "mfcc": silent_mfcc, "chroma": torch.zeros(12)}
        static = torch.cat([silent[name] for name in settings.parts])
        buffers["silence"] = torch.cat([static, torch.zeros(len(static) * settings.deltas)])
        for name, values in buffers.items():
            self.register_buffer(name, values.contiguous(), persistent=False)

    def forward(self, waveforms: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features [B, num_frames, num_features] and the numbers of valid frames [B].

        Args:
            waveforms: [B, samples], at the settings' rate, each followed by anything up to the longest.
            num_samples: of each waveform, [B].
        """
        if waveforms.device.type == "cpu" and not torch.compiler.is_compiling():
            # One after another, so that no value depends on what else is in the batch; a core gains nothing by batches.
            pairs = zip(waveforms, num_samples, strict=True)
            rows = [self._features(waveform[None, :count], count[None]) for waveform, count in pairs]
            return torch.cat([values for values, _ in rows]), torch.cat([count for _, count in rows])
        is_padding = torch.arange(waveforms.shape[1], device=waveforms.device) >= num_samples[:, None]
        return self._features(waveforms.masked_fill(is_padding, 0), num_samples)

    def _features(self, waveforms: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        num_valid = (1 + num_samples // self.settings.hop_samples).clamp(max=self.num_frames)
        # Frames after the longest are known; an exported graph has one shape for all.
        frames = self.num_frames if torch.compiler.is_compiling() else int(num_valid.max())
        is_valid = (torch.arange(frames, device=waveforms.device) < num_valid[:, None])[:, None]
        sums, columns = self._sums(waveforms, frames), {}
        if "mel" in sums:
            columns["mel"] = self._decibels(sums["mel"] * is_valid)
        if "mfcc" in self.settings.parts:
            columns["mfcc"] = self.cosines @ columns["mel"]
        if "chroma" in sums:
            columns["chroma"] = self._chroma(sums["chroma"]) * is_valid
        static = torch.cat([columns[name] for name in self.settings.parts], dim=1)
        changes = [self._deltas(static, num_valid, order) * is_valid for order in range(1, self.settings.deltas + 1)]
        values = torch.cat([static, *changes], dim=1).transpose(1, 2)
        if frames < self.num_frames:
            values = torch.cat([values, self.silence.expand(len(values), self.num_frames - frames, -1)], dim=1)
        return values.contiguous(), num_valid

    def _sums(self, waveforms: Tensor, frames: int) -> dict[str, Tensor]:
        """Power spectra of frames under a Hann window, summed by filters: [B, filters, frames] by the filters' name."""
        size, hop = self.settings.window_samples, self.settings.hop_samples
        waveforms = waveforms[:, : num_samples(self.num_frames, self.settings)]
        missing = (frames - 1) * hop + size - size // 2 - waveforms.shape[1]
        waveforms = nn.functional.pad(waveforms, (size // 2, max(0, missing)))
        in_blocks = waveforms.device.type == "cpu" and not torch.compiler.is_compiling()
        step = max(1, BLOCK_SAMPLES // size) if in_blocks else frames
        found: dict[str, list[Tensor]] = {name: [] for name in self.bands}
        for begin in range(0, frames, step):
            block = waveforms[:, begin * hop : (min(begin + step, frames) - 1) * hop + size]
            spectrum = torch.stft(block, size, hop, window=self.window, center=False, return_complex=True)
            power = torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag)
            for name, sums in found.items():
                sums.append(self.get_buffer(f"{name}_filters") @ power)
        return {name: torch.cat(sums, dim=2) for name, sums in found.items()}

    def _decibels(self, mel: Tensor) -> Tensor:
        """Mel powers [B, num_mels, frames] in dB, at least `db_floor`.

        0 dB is a power of 1, or with `db_reference` peak the clip's largest value. The floor is fixed: librosa's
        default `top_db` puts it 80 dB below each clip's peak, so that a loud passage would change the values of silent
        frames.
        """
        if self.settings.db_reference == "peak":
            mel = mel / mel.amax(dim=(1, 2), keepdim=True).clamp(min=TINY)
        floor = self.settings.db_floor
        return (10 * mel.clamp(min=10 ** (floor / 10)).log10()).clamp(min=floor)

    def _chroma(self, strength: Tensor) -> Tensor:
        """Strength of the 12 pitch classes [B, 12, frames]; the strongest of a frame is 1. A silent frame is all 0."""
        strongest = strength.amax(dim=1, keepdim=True)
        return strength / torch.where(strongest < TINY, torch.ones_like(strongest), strongest)

    def _deltas(self, static: Tensor, num_valid: Tensor, order: int) -> Tensor:
        """First (order 1) or second derivatives over time [B, features, frames], by a Savitzky-Golay fit over 9 frames.

        The first and last valid frames are repeated beyond the ends.
        """
        half = DELTA_FRAMES // 2
        frames = torch.arange(-half, static.shape[2] + half, device=static.device)
        frames = torch.minimum(frames.clamp(min=0), num_valid[:, None] - 1)[:, None].expand(-1, static.shape[1], -1)
        around = static.gather(2, frames).unfold(2, DELTA_FRAMES, 1)
        return around @ self.slopes[order - 1]


def mel_filters(settings: FeatureSettings) -> Tensor:
    """Triangular filters [num_mels, bins] with Slaney's scale and norm; filters @ power spectrum are mel powers.

    Source: Slaney's Auditory Toolbox, as in librosa, whose own import takes a second.
    """
    # torchaudio's take the last bin for half the rate, rounded down: other bands for odd windows and rates.
    bins_hz = np.arange(settings.window_samples // 2 + 1) * settings.sample_rate_hz / settings.window_samples
    lowest, highest = _mels(np.array([settings.fmin_hz, settings.fmax_hz or settings.sample_rate_hz / 2]))
    edges_hz = _hz(np.linspace(lowest, highest, settings.num_mels + 2))
    rising, falling = edges_hz[:-2, None], edges_hz[2:, None]
    middles = edges_hz[1:-1, None]
    slopes = (bins_hz - rising) / (middles - rising), (falling - bins_hz) / (falling - middles)
    filters = np.maximum(0, np.minimum(*slopes)) * 2 / (falling - rising)
    return torch.from_numpy(filters.astype(np.float32))


# Slaney's scale: linear to 1000 Hz, which is 15 mels, then 27 mels for a factor of 6.4.
_LINEAR_HZ, _LINEAR_MELS, _LOG_STEP = 1000.0, 15.0, np.log(6.4) / 27


def _mels(hz: np.ndarray) -> np.ndarray:
    logarithmic = _LINEAR_MELS + np.log(np.maximum(hz, _LINEAR_HZ) / _LINEAR_HZ) / _LOG_STEP
    return np.where(hz < _LINEAR_HZ, hz * _LINEAR_MELS / _LINEAR_HZ, logarithmic)


def _hz(mels: np.ndarray) -> np.ndarray:
    logarithmic = _LINEAR_HZ * np.exp(_LOG_STEP * (np.maximum(mels, _LINEAR_MELS) - _LINEAR_MELS))
    return np.where(mels < _LINEAR_MELS, mels * _LINEAR_HZ / _LINEAR_MELS, logarithmic)


def pitch_class_filters(settings: FeatureSettings) -> Tensor:
    """Filters [12, bins] that sum a power spectrum by pitch class.

    Tuned to 440 Hz, where librosa's default estimates a tuning for each clip.
    """
    # Slow to import, and nothing else here needs it.
    from librosa.filters import chroma

    return torch.from_numpy(chroma(sr=settings.sample_rate_hz, n_fft=settings.window_samples, tuning=0.0, n_chroma=12))
