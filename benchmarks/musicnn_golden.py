"""Write what the original musicnn computes, with TensorFlow, to compare ours with: tests/golden/musicnn.npz.

`TF_USE_LEGACY_KERAS=1 python benchmarks/musicnn_golden.py FILE`, in an environment of its own with
`pip install tensorflow-cpu tf_keras` and `pip install --no-deps musicnn`; nothing of this project is imported.

By checkpoint, number of frames and layer there are the states [frames, values] of some frames. The input is
`spectrogram`, which tests import from here.
"""

import argparse

import numpy as np

CHECKPOINTS = ("MSD_musicnn", "MTT_musicnn")
PATCH_FRAMES = 187  # of which the package's penultimate layer is
# Lengths, shorter and longer than the longest filter's 128, odd and even, at last more than two blocks of ours; and the
# frames that are kept.
FRAMES = {1: [0], 50: [0, 25, 49], 131: [0, 66, 130], 200: [0, 1, 100, 199], 530: [255, 256, 511, 512, 529]}


def spectrogram(frames: int) -> np.ndarray:
    """A log mel spectrogram [frames, 96] of noise that swells and fades, the same with every version of numpy."""
    numbers = np.arange(1, 96 * frames + 1, dtype=np.uint64)
    numbers = (numbers * numbers * np.uint64(2654435761) + numbers * np.uint64(40503)) >> np.uint64(16)
    noise = (numbers % np.uint64(1 << 16)).reshape(frames, 96) / (1 << 16)
    loudness = 1.5 * (1 + np.sin(np.arange(frames)[:, None] / 9 + np.arange(96) / 25))
    return (noise * loudness).astype(np.float32)


def states(checkpoint: str, log_mels: np.ndarray) -> list[np.ndarray]:
    """The states [frames, values] of the front end and of the three layers after it, then those of the penultimate
    layer [1, values], by the package's own graph.
    """
    import musicnn
    import tensorflow as tf
    from musicnn import models

    v1 = tf.compat.v1
    v1.reset_default_graph()
    x = v1.placeholder(tf.float32, [None, len(log_mels), 96])
    is_training = v1.placeholder(tf.bool)
    with tf.name_scope("model"):
        _, timbral, temporal, *middle, _, _, last = models.define_model(x, is_training, checkpoint, num_classes=50)
    front = tf.concat([timbral, temporal], 2)
    with v1.Session() as session:
        v1.train.Saver().restore(session, f"{musicnn.__path__[0]}/{checkpoint}/")
        found = session.run([front, *middle, last], {x: log_mels[None], is_training: False})
    return [*(values[0].reshape(len(log_mels), -1) for values in found[:-1]), found[-1]]


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="tests/golden/musicnn.npz")
    options = parser.parse_args()
    import tensorflow as tf

    tf.compat.v1.disable_eager_execution()
    rows: dict[str, np.ndarray] = {}
    for checkpoint in CHECKPOINTS:
        for frames, kept in FRAMES.items():
            for layer, values in enumerate(states(checkpoint, spectrogram(frames))):
                if layer < 4:
                    rows[f"{checkpoint} {frames} {layer}"] = values[kept]
                elif frames <= PATCH_FRAMES:
                    rows[f"{checkpoint} {frames} {layer}"] = values
    np.savez_compressed(options.file, **rows)


if __name__ == "__main__":
    main()
