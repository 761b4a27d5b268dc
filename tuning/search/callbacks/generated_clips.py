"""Copy what a search's GANs made into its folder, with TensorBoard events: curves, quality, pictures and sounds."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import soundfile
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from tuning.data.generated_clips import quality_of
from tuning.datasets import storage
from tuning.datasets.loaders.generated import CURVES, PROVENANCE, SHARD
from tuning.search.callbacks.tensorboard import EventFile

FOLDER = "gan"
SHOWN = (".png", ".wav", ".json")


def show_generated(search: Path, folders: Sequence[str]) -> None:
    """Copy the results of each GAN into the search's folder, gan/<fingerprint>/, with an event file.

    A GAN that was copied before is skipped.
    """
    for folder in folders:
        target = search / FOLDER / folder.rpartition("/")[2]
        if (target / PROVENANCE).exists():
            continue
        target.mkdir(parents=True, exist_ok=True)
        kept = (name for name in storage.list_names(folder) if name.endswith(SHOWN) and not name.startswith(SHARD))
        contents = {name: storage.read_bytes(folder, name) for name in sorted(kept)}
        _write_events(target, contents, quality_of(folder))
        for name in sorted(contents, key=lambda name: name == PROVENANCE):
            storage.write_bytes(str(target), name, contents[name])


def _write_events(target: Path, contents: dict[str, bytes], quality: dict[str, Any]) -> None:
    rows = json.loads(contents[CURVES])
    events = EventFile(target)
    for row in rows:
        values = {f"gan/{name}": value for name, value in row.items() if name != "epoch" and value is not None}
        _add(events, [Summary.Value(tag=tag, simple_value=float(value)) for tag, value in values.items()], row["epoch"])
    last = rows[-1]["epoch"]
    figures = {f"quality/{name}": v for name, v in quality.items() if isinstance(v, (int, float)) and math.isfinite(v)}
    _add(events, [Summary.Value(tag=tag, simple_value=value) for tag, value in figures.items()], last)
    for name, content in contents.items():
        stem, _, kind = name.rpartition(".")
        if kind == "png":
            _add(events, [Summary.Value(tag=f"gan/{stem}", image=_image(content))], last)
        elif kind == "wav":
            _add(events, [Summary.Value(tag=f"gan/{stem}", audio=_audio(content))], last)
    events.close()


def _add(events: EventFile, values: list[Any], step: int) -> None:
    events.add(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))


def _image(content: bytes) -> Any:
    # The first chunk of a PNG has its width and height.
    width, height = int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    return Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=content)


def _audio(content: bytes) -> Any:
    info = soundfile.info(io.BytesIO(content))
    return Summary.Audio(
        sample_rate=info.samplerate,
        num_channels=info.channels,
        length_frames=info.frames,
        encoded_audio_string=content,
        content_type="audio/wav",
    )
