"""A tiny musicnn with random weights in TensorFlow's format, and the folder of the published ones where they are.

TensorFlow 2.21 reads what is written here as it was meant.
"""

import importlib.util
import os

import numpy as np

from tuning.datasets.settings import FeatureSettings
from tuning.models.tensorflow_checkpoint import DATA, INDEX, crc32c, masked

TIMBRAL, TEMPORAL, MIDDLE, PENULTIMATE = 3, 2, 16, 10
SIZES = (2 * TIMBRAL + 3 * TEMPORAL, MIDDLE, MIDDLE, MIDDLE, PENULTIMATE)


def published():
    """The folder with MSD_musicnn/ and MTT_musicnn/: of `TUNING_MUSICNN`, or of the package; None without."""
    found = importlib.util.find_spec("musicnn")
    return os.environ.get("TUNING_MUSICNN") or (found and found.submodule_search_locations[0])


def weights(seed=0):
    """All tensors of a tiny musicnn by name."""
    rng = np.random.default_rng(seed)
    front = [((7, 38), TIMBRAL), ((7, 67), TIMBRAL), ((128, 1), TEMPORAL), ((64, 1), TEMPORAL), ((32, 1), TEMPORAL)]
    shapes = [(*kernel, 1, count) for kernel, count in front] + [(7, size, 1, MIDDLE) for size in SIZES[:3]]
    tensors = {}
    pooled = 2 * sum(SIZES[:4])
    for number, shape in enumerate([(1,), *shapes, (pooled,), (PENULTIMATE,)]):
        suffix = f"_{number}" if number else ""
        for name, low, high in (("beta", -1, 1), ("gamma", -1, 2), ("moving_mean", -1, 1), ("moving_variance", 0.1, 2)):
            tensors[f"batch_normalization{suffix}/{name}"] = rng.uniform(low, high, shape[-1:])
    for number, shape in enumerate(shapes):
        suffix = f"_{number}" if number else ""
        tensors[f"conv2d{suffix}/kernel"] = rng.standard_normal(shape) / np.sqrt(np.prod(shape[:3]))
        tensors[f"conv2d{suffix}/bias"] = rng.uniform(-0.1, 0.1, shape[-1:])
    tensors["dense/kernel"] = rng.standard_normal((pooled, PENULTIMATE)) / np.sqrt(pooled)
    tensors["dense/bias"], tensors["beta1_power"] = rng.uniform(-0.1, 0.1, PENULTIMATE), np.array(0.9)
    return {name: values.astype(np.float32) for name, values in tensors.items()}


def write_checkpoint(folder, tensors, shards=1):
    """Write tensors as TensorFlow does, but with `shards` as the number of parts that the index says."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, content = {b"": b"\x08" + varint(shards)}, b""
    for name in sorted(tensors):
        values = tensors[name].tobytes()
        shape = b"".join(message(2, b"\x08" + varint(size)) for size in tensors[name].shape)
        place = b"\x20" + varint(len(content)) + b"\x28" + varint(len(values))
        checksum = b"\x35" + masked(crc32c(values)).to_bytes(4, "little")
        rows[name.encode()] = b"\x08\x01" + message(2, shape) + place + checksum
        content += values
    (folder / DATA).write_bytes(content)
    (folder / INDEX).write_bytes(table(rows))


def write_musicnn(folder, seed=0):
    """A folder as the package's own, with what it has besides; layers of 12, 16, 16, 16 and 10 values."""
    write_checkpoint(folder, weights(seed))
    for name in (".meta", "checkpoint", "config.json", "train_log.tsv"):
        (folder / name).write_text('{"n_frames": 187}')
    return FeatureSettings(name="encoder", encoder=str(folder), num_frames=40)


def table(rows):
    """A table of LevelDB, in blocks of 16 rows."""
    content, handles, ordered = b"", {}, sorted(rows.items())

    def add(rows):
        nonlocal content
        handle = varint(len(content)) + varint(len(encoded := block(rows)))
        content += encoded + b"\0" + masked(crc32c(encoded + b"\0")).to_bytes(4, "little")
        return handle

    for begin in range(0, len(ordered), 16):
        handles[ordered[begin : begin + 16][-1][0]] = add(ordered[begin : begin + 16])
    footer = add([]) + add(sorted(handles.items()))
    return content + footer.ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little")


def block(rows):
    """Rows of keys and values; a key says how many bytes of the last one it begins with."""
    content, before = b"", b""
    for key, value in rows:
        shared = next((at for at, pair in enumerate(zip(before, key, strict=False)) if len(set(pair)) > 1), len(before))
        content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    return content + (0).to_bytes(4, "little") + (1).to_bytes(4, "little")


def message(field, content):
    """A field with bytes."""
    return varint(field << 3 | 2) + varint(len(content)) + content


def varint(number):
    """Seven bits in each byte, lowest first."""
    found = b""
    while number > 0x7F:
        found, number = found + bytes([number & 0x7F | 0x80]), number >> 7
    return found + bytes([number])
