"""What is heard of a recording: the same seconds as a clip, in its versions, by an encoder, streamed and predicted.

Each second has a pitch of its own, so that frames say which second they are of; the first three are so quiet that
trimming cuts them. Where they should begin and end is computed here in its own words.
"""

import itertools
from dataclasses import dataclass

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tuning.datasets.features.spectral
from tests.datasets.features.test_speech_encoder import FIELD, write_encoder
from tests.datasets.features.test_speech_encoder import HOP as ENCODER_HOP
from tests.helpers.recordings import encode
from tuning.config.schema import parse_config
from tuning.datasets.corpus import Clip, Corpus
from tuning.datasets.features.spectral import extract
from tuning.datasets.features.waveform_effects import EFFECTS, version_rng
from tuning.datasets.loaders.in_memory import ResidentData, collate
from tuning.datasets.loaders.streaming import StreamedData
from tuning.datasets.settings import AugmentSettings, DataSettings, FeatureSettings
from tuning.datasets.splits.split import Split
from tuning.datasets.store.augmentation_bank import prepare_bank
from tuning.datasets.store.build import prepare
from tuning.datasets.store.reader import FeatureStatistics
from tuning.datasets.store.worker import PLAIN, RECORDINGS, VERSIONS, Input
from tuning.evaluation import saved_model
from tuning.evaluation.final_test_files import write_model
from tuning.evaluation.inference import Predictor
from tuning.evaluation.saved_model import load_members
from tuning.training.trial import build_model

RATE, SECONDS, QUIET = 16000, 12, 3
PITCHES = 200 * 2 ** (4.5 * np.arange(SECONDS) / 12)  # 200 to 3490 Hz, further apart than an effect moves them
EDGE = 0.2  # s around a change of pitch, where a frame hears both
TRIM_DB = 40.0
SEGMENTS = ("middle", "start")
CASES = list(itertools.product(SEGMENTS, (None, TRIM_DB)))
# The noise is below the quiet seconds.
AUGMENT = AugmentSettings(versions=1, pitch_semitones=1.0, noise_range=(1e-5, 1e-4))
TEMPO = {"stretch": AUGMENT.stretch_range, "speed": AUGMENT.speed_range}
NAMES = [*EFFECTS, "speed+stretch", "stretch+noise"]
MEL = FeatureSettings(name="mel", sample_rate_hz=RATE, hop_samples=800)
CRNN = {"name": "crnn", "conv_filters": [2], "conv_dropout": [0.1], "lstm_units": [2]}


@dataclass
class Kind:
    """Features, how many samples their frames take, and how many frames are prepared and heard."""

    features: FeatureSettings
    hop: int
    field: int  # samples of one frame
    stored: int
    heard: int

    def seconds(self, frames):
        return ((frames - 1) * self.hop + self.field) / RATE

    def times(self, begin, frames):
        return begin + np.arange(frames) * self.hop / RATE


def check(values, times):
    """Frames [frames, mels] are of the seconds that stand at these times of the recording."""
    assert len(values) == len(times)
    hz = librosa.mel_frequencies(MEL.num_mels + 2, fmax=RATE / 2)[1:-1][values.argmax(axis=1)]
    heard = np.abs(np.log(hz)[:, None] - np.log(PITCHES)).argmin(axis=1)
    far = np.abs(times - np.round(times)) > EDGE
    assert far.sum() > 0.3 * len(times)
    np.testing.assert_array_equal(heard[far], times[far].astype(int))


def mel_kind(**changed):
    """Five seconds are prepared, of which two are heard."""
    return Kind(MEL.model_copy(update=changed), 800, 0, 101, 41)


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heard") / "encoder"
    write_encoder(folder, feat_extract_norm="layer")
    return folder


@pytest.fixture
def encoder_kind(encoder_folder):
    def kind(**changed):
        features = FeatureSettings(name="encoder", encoder=str(encoder_folder), encoder_layers=0)
        return Kind(features.model_copy(update=changed), ENCODER_HOP, FIELD, 1000, 400)

    return kind


def sound(rate=RATE, seconds=SECONDS):
    time = np.arange(round(seconds * rate)) / rate
    second = time.astype(int)
    return (np.where(second < QUIET, 1e-3, 0.3) * np.sin(2 * np.pi * PITCHES[second] * time)).astype(np.float32)


RAW = encode(sound(), RATE, subtype="FLOAT")


def sound_span(trim_db, waveform=None):
    """Where the recording begins and ends, in seconds: at 2048 samples around each 512th that are loud enough."""
    waveform = sound() if waveform is None else waveform
    if trim_db is None:
        return 0.0, len(waveform) / RATE
    padded = np.pad(waveform, 1024)
    levels = [np.sqrt(np.mean(padded[at : at + 2048] ** 2)) for at in range(0, len(padded) - 2047, 512)]
    loud = np.flatnonzero(20 * np.log10(np.array(levels) / max(levels)) > -trim_db)
    return 512 * loud[0] / RATE, min(len(waveform), 512 * (loud[-1] + 1)) / RATE


def expected_begin(kind, frames):
    """Where `frames` of those that are prepared begin, in seconds of the recording."""
    begin, end = sound_span(kind.features.trim_db)
    if kind.features.segment == "start":
        return begin
    stored = (begin + end) / 2 - kind.seconds(kind.stored) / 2
    return stored + (kind.stored - frames) // 2 * kind.hop / RATE


def expected_times(kind, frames, tempo):
    """Where each frame of a version at another tempo stands in the recording; the segment's own place stays."""
    times = kind.times(expected_begin(kind, frames), frames)
    fixed = expected_begin(kind, kind.stored)
    if kind.features.segment == "middle":
        fixed += kind.seconds(kind.stored) / 2
    return fixed + (times - fixed) * tempo


def tempo_of(effect, digest):
    """The product of the tempo factors of a combination of effects."""
    tempo = [part for part in effect.split("+") if part in TEMPO]
    return np.prod([version_rng(digest, part, 0).uniform(*TEMPO[part]) for part in tempo])


@pytest.fixture(scope="module", params=CASES, ids=str)
def made(request, tmp_path_factory, ray_session):
    """Features and bank of the recording, one as a clip to train on and one to validate on."""
    segment, trim_db = request.param
    folder, kind = tmp_path_factory.mktemp("heard"), mel_kind(segment=segment, trim_db=trim_db)
    clips = []
    for number, gain in enumerate((1.0, 0.9)):
        (folder / f"{number}.wav").write_bytes(encode(gain * sound(), RATE, subtype="FLOAT"))
        clips.append(Clip(f"{number}.wav", (0.0, 0.0)))
    corpus, cells = Corpus("manifest", str(folder), clips), {"0.wav": "train", "1.wav": "val"}
    quality = DataSettings(prepared=str(folder / "prepared"))
    prepared = prepare(corpus, cells, kind.features, kind.stored, quality)
    bank = prepare_bank(corpus, cells, clips[:1], (), kind.features, kind.stored, quality, AUGMENT, NAMES)
    return kind, prepared, bank, Split(clips[:1], clips[1:], [], "by hand")


@pytest.mark.parametrize("frames", [101, 41])
@pytest.mark.parametrize("effect", [PLAIN, *NAMES])
def test_a_clip_and_its_versions_are_of_the_same_seconds(made, effect, frames):
    kind, prepared, bank, split = made
    data = ResidentData.read(prepared, split, bank).crop(frames, "masked", kind.features.segment)
    chances = AUGMENT.model_dump() | ({f"{part}_prob": 1.0 for part in effect.split("+")} if effect else {})
    (batch,) = data.augmented(AugmentSettings(**chances)).train_batches(1, 4, seed=0)
    tempo = tempo_of(effect, prepared.digests["0.wav"])
    values = batch["features"][0].numpy() * data.statistics.std + data.statistics.mean
    assert batch["num_frames"].tolist() == [frames]
    check(values, expected_times(kind, frames, tempo))


@pytest.mark.parametrize("frames", [101, 41])
@pytest.mark.parametrize("way", [ResidentData.read, StreamedData.open])
def test_in_memory_and_streamed_the_same_seconds_are_heard(made, way, frames):
    kind, prepared, _, split = made
    data = way(prepared, split).crop(frames, "masked", kind.features.segment)
    for batches in (data.train_batches(1, 4, seed=0), data.val_batches(4)):
        (batch,) = batches
        values = batch["features"][0].numpy() * data.statistics.std + data.statistics.mean
        check(values, kind.times(expected_begin(kind, frames), frames))


@pytest.mark.parametrize("trim_db", [None, TRIM_DB])
@pytest.mark.parametrize("effect", [PLAIN, *NAMES])
def test_an_encoder_hears_the_same_seconds(encoder_kind, monkeypatch, trim_db, effect):
    kind = encoder_kind(trim_db=trim_db)
    augment = AUGMENT.model_dump() if effect else None
    quality = DataSettings().model_dump()
    unit = {"features": kind.features.model_dump(), "num_frames": kind.stored, "data": quality, "augment": augment}
    given_to_it, encode_it = [], tuning.datasets.features.spectral.encode

    def listening(waveforms, *arguments):
        given_to_it.extend(waveforms)
        return encode_it(waveforms, *arguments)

    monkeypatch.setattr("tuning.datasets.features.spectral.encode", listening)
    num_valid, values = prepared_rows(RAW, effect, unit)
    assert np.max(num_valid) == kind.stored and np.isfinite(values).all()
    (waveform,) = given_to_it
    frames = 1 + len(waveform) // MEL.hop_samples
    assert abs(len(waveform) - ((kind.stored - 1) * kind.hop + kind.field)) <= 1
    fixed = expected_begin(kind, kind.stored) + kind.seconds(kind.stored) / 2
    times = np.arange(frames) * MEL.hop_samples / RATE - kind.seconds(kind.stored) / 2
    check(extract(waveform, MEL, frames)[0], fixed + times * tempo_of(effect, "digest"))


def prepared_rows(raw, combination, job):
    """What a preparation makes of a recording's content."""
    task = VERSIONS if combination else RECORDINGS
    read = Input("digest", [combination], task.read(raw, job))
    return task.compute([read], job, "cpu")[0][combination]


def write_best(folder, kind, prepared):
    """A model with random weights, whose features are not normalised, so that they can be listened to."""
    features = kind.features.model_dump(mode="json") | {"num_frames": kind.heard}
    config = parse_config({"model": CRNN, "features": features})
    size = kind.features.num_features
    statistics = FeatureStatistics(np.zeros(size, np.float32), np.ones(size, np.float32))
    write_model(folder, config, "", build_model(config, size), statistics, prepared)
    return folder


@pytest.fixture
def listen(monkeypatch):
    """What models are given: batches of features, in the order of the calls."""
    batches, judge = [], saved_model.outputs_of

    def listening(best, batch):
        batches.append(batch)
        return judge(best, batch)

    monkeypatch.setattr("tuning.evaluation.inference.outputs_of", listening)
    yield batches
    assert batches, "the models were given something"


@pytest.fixture
def recording(tmp_path):
    (tmp_path / "recording.wav").write_bytes(RAW)
    return tmp_path / "recording.wav"


def starts_of(kind, step):
    """Where windows begin every `step` seconds; the last one ends where the recording does."""
    begin, end = sound_span(kind.features.trim_db)
    last = end - kind.seconds(kind.heard)
    starts = [*np.arange(begin, last + 1e-6, step)]
    return starts + ([last] if last - starts[-1] > 1e-3 else [])


def assert_at(windows, kind, starts):
    """They begin there and say that they are as long as what is heard."""
    length = kind.seconds(kind.heard)
    assert [window.start_seconds for window in windows] == pytest.approx(starts, abs=1e-3)
    assert [window.end_seconds for window in windows] == pytest.approx([start + length for start in starts], abs=1e-3)


@pytest.mark.parametrize("prepared", [101, 41])
@pytest.mark.parametrize(("segment", "trim_db"), CASES)
def test_a_prediction_is_of_the_seconds_of_training_and_says_so(
    tmp_path, recording, listen, segment, trim_db, prepared
):
    kind = mel_kind(segment=segment, trim_db=trim_db)
    kind.stored = prepared
    predictor = Predictor(load_members(write_best(tmp_path / "best", kind, prepared)))
    windows, _ = predictor.listen([recording], None, None)
    begin = expected_begin(kind, kind.heard)
    assert_at(windows, kind, [begin])
    (batch,) = listen
    check(batch["features"][0].numpy(), kind.times(begin, kind.heard))


@pytest.mark.parametrize("prepared", [101, 41])
@pytest.mark.parametrize(("segment", "trim_db"), CASES)
def test_windows_are_of_the_seconds_that_they_say(tmp_path, recording, listen, segment, trim_db, prepared):
    kind = mel_kind(segment=segment, trim_db=trim_db)
    predictor = Predictor(load_members(write_best(tmp_path / "best", kind, prepared)))
    windows, _ = predictor.listen([recording], 1.5, None)
    assert_at(windows, kind, starts_of(kind, 1.5))
    (batch,) = listen
    assert batch["num_frames"].tolist() == [kind.heard] * len(windows)
    for values, window in zip(batch["features"].numpy(), windows, strict=True):
        check(values, kind.times(window.start_seconds, kind.heard))


@pytest.mark.parametrize("step", [None, 1.5])
@pytest.mark.parametrize("prepared", [1000, 400])
@pytest.mark.parametrize("trim_db", [None, TRIM_DB])
def test_an_encoder_predicts_the_seconds_that_it_says(
    encoder_kind, tmp_path, recording, listen, trim_db, prepared, step
):
    kind = encoder_kind(trim_db=trim_db)
    kind.stored = prepared
    predictor = Predictor(load_members(write_best(tmp_path / "best", kind, prepared)))
    windows, _ = predictor.listen([recording], step, None)
    assert_at(windows, kind, starts_of(kind, step) if step else [expected_begin(kind, kind.heard)])
    (batch,) = listen
    for values, (window, (heard,)) in zip(batch["features"].numpy(), predictor.windows(recording, step), strict=True):
        states, _ = extract(heard.waveform, kind.features, prepared)
        np.testing.assert_array_equal(values, states[heard.first : heard.first + kind.heard])
        waveform = heard.waveform[heard.first * kind.hop :][: round(kind.seconds(kind.heard) * RATE)]
        frames = 1 + len(waveform) // MEL.hop_samples
        times = window.start_seconds + np.arange(frames) * MEL.hop_samples / RATE
        check(extract(waveform, MEL, frames)[0], times)


# Five seconds are prepared, of which two are heard.
LENGTHS = [(12, "masked"), (4, "masked"), (1.5, "masked"), (1.5, "silence"), (1.5, "zero")]


@pytest.mark.parametrize(("segment", "trim_db"), CASES)
@pytest.mark.parametrize("rate", [RATE, 22050])
@pytest.mark.parametrize(("seconds", "padding"), LENGTHS)
def test_without_steps_a_model_is_given_what_was_prepared_to_the_last_bit(
    tmp_path, listen, segment, trim_db, rate, seconds, padding
):
    kind = mel_kind(segment=segment, trim_db=trim_db, padding=padding)
    raw = encode(sound(rate, seconds), rate, subtype="FLOAT")
    (tmp_path / "recording.wav").write_bytes(raw)
    predictor = Predictor(load_members(write_best(tmp_path / "best", kind, kind.stored)))
    predictor.listen([tmp_path / "recording.wav"], None, None)
    unit = {"features": kind.features.model_dump(), "num_frames": kind.stored, "augment": None}
    row = prepared_rows(raw, PLAIN, unit | {"data": DataSettings().model_dump()})
    (model,) = predictor.models
    wanted = collate([(0, *row)], np.zeros((1, 1)), model.features, kind.heard, padding, segment)
    (batch,) = listen
    assert all(torch.equal(batch[name], wanted[name]) for name in ("features", "num_frames"))


def test_members_hear_their_own_segment_of_a_clip_and_the_same_stretch_in_steps(tmp_path, recording, listen):
    """One keeps the beginning of a clip, the other the middle and hears twice as much."""
    first, second = mel_kind(segment="start"), mel_kind(segment="middle")
    first.stored, second.heard = 41, 81
    write_best(tmp_path / "best", first, 41)
    write_best(tmp_path / "best" / "members" / "0002", second, 101)
    predictor = Predictor(load_members(tmp_path / "best"))
    (window,), _ = predictor.listen([recording], None, None)
    assert (window.start_seconds, window.end_seconds) == pytest.approx((0.0, 8.0), abs=1e-3)
    check(listen[0]["features"][0].numpy(), first.times(0.0, 41))
    check(listen[1]["features"][0].numpy(), second.times(4.0, 81))
    listen.clear()
    windows, _ = predictor.listen([recording], 2.0, None)
    assert {round(window.end_seconds - window.start_seconds, 3) for window in windows} == {2.0}
    for number, window in enumerate(windows):
        check(listen[0]["features"][number].numpy(), first.times(window.start_seconds, 41))
        begin = min(max(0.0, window.start_seconds - 1.0), SECONDS - 4.0)
        check(listen[1]["features"][number].numpy(), second.times(begin, 81))


def test_an_encoder_has_no_silence_to_pad_with():
    with pytest.raises(ValueError, match="padding: expected masked or zero with"):
        FeatureSettings(name="encoder", encoder="some/encoder", padding="silence")


MEMBERS = st.lists(
    st.tuples(
        st.sampled_from([160, 400, 800]),
        st.integers(2, 60),
        st.integers(0, 40),
        st.sampled_from(SEGMENTS),
        st.sampled_from([None, TRIM_DB]),
    ),
    min_size=1,
    max_size=2,
)
FAINT = 2.0**-10  # 60 dB less


@settings(max_examples=60)
@given(members=MEMBERS, num_samples_=st.integers(1700, 60000), quiet=st.floats(0.0, 0.9), share=st.floats(0.05, 1.0))
def test_every_second_is_judged_by_a_window_that_says_so(tmp_path_factory, members, num_samples_, quiet, share):
    """Each sample tells its number by its value, so that what a model is given says where it is from."""
    ramp = 0.5 + np.arange(num_samples_) * 2.0**-24
    ramp[: round(quiet * num_samples_)] *= FAINT
    file = tmp_path_factory.mktemp("ramp") / "ramp.wav"
    file.write_bytes(encode(ramp.astype(np.float32), RATE, subtype="FLOAT"))
    predictor = Predictor.__new__(Predictor)
    predictor.models = []
    for hop, heard, surplus, segment, trim_db in members:
        features = {"name": "mel", "hop_samples": hop, "num_frames": heard, "segment": segment, "trim_db": trim_db}
        config = parse_config({"features": features})
        predictor.models.append(saved_model.Best(None, config, [], None, heard + surplus))
    predictor.config = predictor.models[0].config
    sizes = [(heard - 1) * hop for hop, heard, *_ in members]
    begins = [round(sound_span(trim_db, ramp)[0] * RATE) for *_, trim_db in members]
    windows = list(predictor.windows(file, share * min(sizes) / RATE))
    bounds = [(window.start_seconds * RATE, window.end_seconds * RATE) for window, _ in windows]
    assert bounds[0][0] == pytest.approx(max(begins), abs=1e-3)
    assert bounds[-1][1] == pytest.approx(num_samples_, abs=1)
    assert all(after[0] <= before[1] + 1 for before, after in itertools.pairwise(bounds))
    for (_, given_each), (start, stop) in zip(windows, bounds, strict=True):
        for heard, (hop, _, surplus, segment, _), size, begin in zip(given_each, members, sizes, begins, strict=True):
            values = heard.waveform.astype(np.float64)
            numbers = np.round((np.where(values < 0.1, values / FAINT, values) - 0.5) * 2**24)
            given_frames = numbers[heard.first * hop : heard.first * hop + size]
            assert given_frames[0] <= start + 1 and given_frames[-1] + 1 >= stop - 1
            assert len(given_frames) == min(size, num_samples_ - begin)
            # As much around it as was prepared, and where it was, as far as there is sound.
            most = size + surplus * hop
            assert min(most, num_samples_ - begin) - hop < len(numbers) <= most
            before = surplus // 2 if segment == "middle" else 0
            sound_before, sound_after = given_frames[0] - begin, num_samples_ - 1 - given_frames[-1]
            if sound_before >= before * hop and sound_after >= (surplus - before) * hop:
                assert heard.first == before
