"""Write a saved model as ONNX: `tuning export results/NAME/best`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from tuning import api
from tuning.cli.allow_code import take_allow_code, true
from tuning.cli.command import BEST, Parser, run_command

PARSER = Parser(
    "tuning export BEST [waveform=true] [allow_code=true]",
    """\
Write a finalized model as model.onnx into its folder; of an ensemble one for each member. Inputs are features, not
normalised (that is part of the graph), and the number of frames of each clip that are not padding; outputs are those
of the model, for classes also probabilities. Any number of clips at once, and of frames where the model allows it.
Names, settings and lengths are in the file's metadata.

With waveform=true the file is waveform.onnx, and its inputs are mono waveforms at the model's sample rate, and the
number of samples of each that are not padding: segment, features and normalisation are in the graph.

onnxruntime then runs the file on clips of the corpus, with padding and without. If its outputs differ from PyTorch's,
the file is deleted and the exit code is 2. Needs: pip install 'audio-emotion-tuning[onnx]'.""",
)
PARSER.place("best", "one folder best/", BEST)
PARSER.option("waveform", true, "true", "a graph from the waveform, with the features in it")
take_allow_code(PARSER)


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code: 0 done, 2 the user's input or outputs that differ, 1 anything else."""
    return run_command(PARSER, _export, words)


def _export(options: Namespace) -> None:
    api.export(options.best, waveform=bool(options.waveform), allow_code=bool(options.allow_code))
