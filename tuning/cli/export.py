"""Write a saved model as ONNX: `tuning export results/NAME/best`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tuning.cli.command import run_command
from tuning.config.errors import UserError

PACKAGES = ("onnx", "onnxruntime", "onnxscript")

USAGE = """\
tuning export results/NAME/best

Writes model.onnx beside the model, of an ensemble one for each member: features, unnormalised, and the number of
frames of each clip that are no padding -> outputs, of classes also probabilities. Any number of clips at once, and of
frames where the model allows it. The normalisation is in the graph; names, settings and lengths are in its metadata.

onnxruntime then runs it on clips of the corpus, with padding and without; where its outputs differ from PyTorch's,
the file is deleted and the exit code is 2. Needs: pip install 'audio-emotion-tuning[onnx]'.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; the exit code: 0 done, 2 the user's input or outputs that differ, 1 anything else."""
    return run_command(lambda: USAGE, _main, arguments)


def _main(arguments: list[str]) -> None:
    if len(arguments) != 1 or "=" in arguments[0] or arguments[0].startswith("-"):
        raise UserError(f"expected one folder best/, got {arguments or 'none'}\n{USAGE}")
    best = Path(arguments[0])
    if not (best / "config.yaml").exists() or not (best / "model.safetensors").exists():
        raise UserError(f"{best}: expected a folder best/ that tuning finalize wrote, with its model")
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"expected the packages of the extra 'onnx', got none of {', '.join(missing)}; "
            "install them: pip install 'audio-emotion-tuning[onnx]'"
        )
    from tuning.evaluation.onnx_export import FILE, export
    from tuning.evaluation.saved_model import member_folders

    for folder in member_folders(best):
        difference, clips, lengths = export(folder)
        print(f"exported  {folder / FILE}: {lengths}")
        print(f"compared  with PyTorch on {clips}: largest difference {difference:.1e}")
