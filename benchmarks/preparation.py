"""Measure what it costs to prepare features: beside librosa's loop, pure decoding and torchaudio's transforms.

`python -m benchmarks.preparation [--clips 16] [--repeats 5] [--corpus FOLDER ...] [--gpu] [--out FILE]`, on idle cores.

Thirty seconds of music at 44.1 kHz, stereo, in each container, and some recordings of each corpus folder that is given.
All variants run in one process with one thread, in turns, and are measured in seconds of CPU. A preparation reads a
file's bytes and hashes them, checks its container and its sound, decodes, resamples and computes features as every
search does. The second table: other ways to compute spectra within it. Then what Ray Data adds on all cores, and the
most memory that an hour of sound takes. With `--gpu` also the pipeline of a GPU: how fast it is, how long the GPU
computes, and how far its values are off.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import librosa
import numpy as np
import scipy.fft
import scipy.sparse
import soundfile
import torch

from benchmarks.bank import start_ray
from benchmarks.report import machine, publish, recordings, spread, table
from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.demo import music
from tuning.datasets.features import spectral
from tuning.datasets.features.spectral import FrontEnd, mel_filters
from tuning.datasets.hashing import digest_of
from tuning.datasets.settings import DataSettings, FeatureSettings
from tuning.datasets.store.build import prepare
from tuning.datasets.store.reader import read_part
from tuning.datasets.store.worker import PLAIN, Input, compute_features, read_recording
from tuning.models.torch_audio import functional, load

SECONDS, RATE = 30, 44_100
FEATURES = FeatureSettings(name="mel", sample_rate_hz=22_050, window_samples=2048, hop_samples=512, num_mels=128)
FRAMES = 1 + int(SECONDS * FEATURES.sample_rate_hz) // FEATURES.hop_samples
CONTAINERS = {"wav": "PCM_16", "mp3": "MPEG_LAYER_III", "flac": "PCM_16", "ogg": "VORBIS"}
MANY = 8  # times as many MP3 for Ray Data
OURS, LIBROSA, DECODING, TORCHAUDIO = "a preparation", "librosa's loop", "decoding", "torchaudio's transforms"


def write_music(folder: Path, clips: int, suffix: str) -> list[Path]:
    """Thirty seconds of demo pieces, 44.1 kHz, two channels."""
    files = []
    for number in range(clips):
        timbre = music.draw_timbre(number % 4)
        piece = music.render(music.draw_piece(number, number % 4, timbre), timbre, seconds=SECONDS)
        sound = librosa.resample(piece.astype(np.float32), orig_sr=music.SAMPLE_RATE_HZ, target_sr=RATE)
        files.append(folder / f"{number}.{suffix}")
        soundfile.write(files[-1], np.stack([sound, 0.8 * sound], 1), RATE, subtype=CONTAINERS[suffix])
    return files


def variants() -> dict[str, Callable[[Path], object]]:
    """What is done with a file, by name."""
    job = {
        "features": FEATURES.model_dump(), "num_frames": FRAMES, "data": DataSettings().model_dump(), "augment": None,
    }  # fmt: skip
    size, hop, rate = FEATURES.window_samples, FEATURES.hop_samples, FEATURES.sample_rate_hz
    transforms = load().transforms
    mel = transforms.MelSpectrogram(
        rate, size, hop_length=hop, n_mels=FEATURES.num_mels, norm="slaney", mel_scale="slaney"
    )
    decibels = transforms.AmplitudeToDB(top_db=80)

    def ours(file: Path) -> object:
        raw = file.read_bytes()
        read = Input(digest_of(raw), [PLAIN], read_recording(raw, job))
        (found,) = compute_features([read], job, "cpu")
        assert not isinstance(found, str), found
        return found

    def by_librosa(file: Path) -> object:
        waveform, _ = librosa.load(file, sr=rate, duration=SECONDS)
        power = librosa.feature.melspectrogram(
            y=waveform, sr=rate, n_fft=size, hop_length=hop, n_mels=FEATURES.num_mels
        )
        return librosa.power_to_db(power)

    def by_torchaudio(file: Path) -> object:
        sound, own = soundfile.read(file, dtype="float32", always_2d=True)
        waveform = torch.from_numpy(sound).mean(1)
        return decibels(mel(functional.resample(waveform, own, rate)))

    return {
        OURS: ours, LIBROSA: by_librosa, DECODING: lambda file: soundfile.read(file, dtype="float32"),
        TORCHAUDIO: by_torchaudio,
    }  # fmt: skip


def other_ways() -> dict[str, Callable[[Path], object]]:
    """A preparation, and the same with spectra that are computed in other ways, by name."""
    ours = variants()[OURS]
    filters = scipy.sparse.csr_array(mel_filters(FEATURES).numpy())
    window = np.hanning(FEATURES.window_samples + 1)[:-1].astype(np.float32)

    def by_scipy(_: FrontEnd, waveforms: torch.Tensor, frames: int) -> dict[str, torch.Tensor]:
        padded = np.pad(waveforms[0].numpy(), FEATURES.window_samples // 2)
        found = []
        for begin in range(0, frames, 128):
            cuts = np.lib.stride_tricks.sliding_window_view(padded, len(window))[:: FEATURES.hop_samples]
            spectrum = scipy.fft.rfft(cuts[begin : min(begin + 128, frames)] * window, overwrite_x=True)
            found.append(filters @ (spectrum.real**2 + spectrum.imag**2).T)
        return {"mel": torch.from_numpy(np.concatenate(found, 1))[None]}

    def changed(owner: object, name: str, value: object) -> Callable[[Path], object]:
        def run(file: Path) -> object:
            with mock.patch.object(owner, name, value):
                return ours(file)

        return run

    return {
        "in blocks of frames": ours,
        "all frames at once": changed(spectral, "BLOCK_SAMPLES", 1 << 40),
        "scipy's rfft, sparse filters": changed(FrontEnd, "_sums", by_scipy),
    }


def measure(files: Sequence[Path], repeats: int, runs: dict[str, Callable[[Path], object]]) -> dict[str, list[float]]:
    """Milliseconds of CPU of a clip, by variant, one figure for each repeat."""
    found: dict[str, list[float]] = {}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            before = time.process_time()
            for file in files:
                run(file)
            if repeat:  # the first warms up
                found.setdefault(name, []).append(1e3 * (time.process_time() - before) / len(files))
    return found


def rows_of(name: str, found: dict[str, list[float]]) -> list[list[str]]:
    """A row for each variant: times, clips per second and core, and ratios to librosa's loop and to decoding."""
    middle = {variant: statistics.median(times) for variant, times in found.items()}
    return [
        [
            name, variant, *spread(times, 1), f"{1e3 / middle[variant]:.0f}",
            f"{middle[LIBROSA] / middle[variant]:.2f}", f"{middle[variant] / middle[DECODING]:.2f}",
        ]
        for variant, times in found.items()
    ]  # fmt: skip


def with_ray(files: Sequence[Path], cpus: int, gpus: bool = False) -> tuple[float, dict[str, np.ndarray]]:
    """Prepare files by Ray Data on all cores, once it is warm: seconds that it takes, and the features of each clip."""
    corpus = Corpus("music", str(files[0].parent), [Clip(file.name, group=file.stem) for file in files])
    partitions = {clip.id: f"part{number % (4 * cpus)}" for number, clip in enumerate(corpus.clips)}
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            before = time.monotonic()
            prepared = prepare(corpus, partitions, FEATURES, FRAMES, DataSettings(prepared=folder), gpus=gpus)
            seconds = time.monotonic() - before
            part = read_part(prepared, corpus.clips, sealed=())
    return seconds, dict(zip(part.ids.tolist(), part.features, strict=True))


@contextmanager
def watched() -> Iterator[list[float]]:
    """Percent of the time that the first GPU computed, in samples of a fifth of a second, as its driver says."""
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-i", "0", "-lms", "200"]
    samples: list[float] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = process.stdout
        reader = threading.Thread(target=lambda: samples.extend(float(line) for line in lines), daemon=True)
        reader.start()
        yield samples
        process.terminate()
        reader.join()


def on_gpu(files: Sequence[Path], cpus: int) -> str:
    """What the pipeline of a GPU gives, in a sentence, beside that of the cores alone."""
    cores, expected = with_ray(files, cpus)
    with watched() as busy:
        seconds, found = with_ray(files, cpus, gpus=True)
    off = max(float(abs(found[clip] - expected[clip]).max()) for clip in expected)
    return (
        f"- With a GPU ({torch.cuda.get_device_name()}): {len(files)} clips in {seconds:.1f} s, {cores / seconds:.2f} "
        f"times the speed of {cpus} cores alone; it computed {statistics.mean(busy):.0f} % of two such preparations; "
        f"values are at most {off:.2g} dB off."
    )


HOUR = """
import sys
from pathlib import Path
from benchmarks.preparation import OURS, variants
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
run = variants()[OURS]
run(Path(sys.argv[1]))
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = peak()
run(Path(sys.argv[2]))
print(peak() - before)
"""


def memory_of_an_hour(folder: Path, short: Path) -> tuple[float, float]:
    """Megabytes that an hour of sound takes at most, once thirty seconds are done, and those of its file. On Linux."""
    long = folder / "hour.flac"
    sound, rate = soundfile.read(short, dtype="float32")
    with soundfile.SoundFile(long, "w", rate, sound.shape[1], "PCM_16") as file:
        for _ in range(int(3600 / SECONDS)):
            file.write(sound)
    done = subprocess.run([sys.executable, "-c", HOUR, short, long], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1e3, long.stat().st_size / 1e6


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preparation", description=__doc__)
    parser.add_argument("--clips", type=int, default=16, help="of each container and corpus")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--corpus", nargs="*", default=[], type=Path, help="folders with recordings")
    parser.add_argument("--gpu", action="store_true", help="also the pipeline of a GPU, which Ray must find")
    parser.add_argument("--out", help="also write the tables to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for suffix in CONTAINERS:
            folder = Path(scratch) / suffix
            folder.mkdir()
            # Of MP3 there are more, so that what Ray Data takes for each is seen beside what it takes to begin.
            files = write_music(folder, options.clips * (MANY if suffix == "mp3" else 1), suffix)
            rows += rows_of(f"music, {suffix}", measure(files[: options.clips], options.repeats, variants()))
        ways = measure(files, options.repeats, other_ways())
        for folder in options.corpus:
            chosen = recordings(folder, options.clips)
            rows += rows_of(f"{folder.name}, {chosen[0].suffix[1:]}", measure(chosen, options.repeats, variants()))
        mega, file_mega = memory_of_an_hour(Path(scratch), Path(scratch) / "flac" / "0.flac")
        cpus = start_ray()
        songs = sorted((Path(scratch) / "mp3").glob("*.mp3"))
        few, many = with_ray(songs[: options.clips], cpus)[0], with_ray(songs, cpus)[0]
        gpu = on_gpu(songs, cpus) + "\n" if options.gpu else ""
    alone = next(float(row[2]) for row in rows if row[:2] == ["music, mp3", OURS])
    each = (many - few) / (len(songs) - options.clips)
    header = ["sound", "variant", "ms", "least", "most", "clips/s/core", "times librosa's speed", "of decoding's time"]
    publish(
        f"""## Preparation

{table(header, rows, left=2)}

{table(["a preparation, ogg", "ms", "least", "most"], [[way, *spread(times, 1)] for way, times in ways.items()])}

- Mel spectrogram in dB of {SECONDS} s: {FEATURES.num_mels} bands, window {FEATURES.window_samples}, hop
  {FEATURES.hop_samples}, {FEATURES.sample_rate_hz} Hz. Milliseconds of CPU of a clip on one thread: median, least
  and most of {options.repeats} repeats over {options.clips} clips.
- Ray Data: {options.clips} MP3 on {cpus} cores in {few:.2f} s, {len(songs)} in {many:.2f} s: {1e3 * each * cpus:.1f} ms
  of a core for each, its shards' writing included, where a process alone takes {alone:.1f}, and
  {few - each * options.clips:.2f} s to begin and to end.
- An hour of sound (FLAC, {file_mega:.0f} MB) takes {mega:.0f} MB more than thirty seconds do; the file's bytes are
  among them.
{gpu}- {machine("numpy", "librosa", "soundfile", "torch", "torchaudio")}.""",
        options.out,
    )


if __name__ == "__main__":
    main()
