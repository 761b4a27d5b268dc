"""The command line as a user runs it: its output and its exit code, in this process or in another."""

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

TINY = (
    "features.num_frames=16",
    "model.conv_filters=[4, 4]",
    "model.lstm_units=[8, 4]",
    "training.epochs=2",
)


# The same for a script.
SMALL_SEARCH = {
    "features.num_frames": 16, "model.conv_filters": [4, 4], "model.lstm_units": [8, 4], "training.epochs": 2,
    "search.max_concurrent": 1,
}  # fmt: skip

# Another process takes longer to begin than the trials of a test.
ONE_AT_A_TIME = "search.max_concurrent=1"


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start `python -m tuning.run` with its output in a pipe."""
    command = [sys.executable, "-m", "tuning.run", ONE_AT_A_TIME, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*arguments: str, code: int = 0) -> str:
    """Run the command in this process, on the Ray that it has: one trial at a time unless told. Its output."""
    from tuning.run import main

    told = any(argument.startswith("search.max_concurrent=") for argument in arguments)
    given = [*arguments] if told else [ONE_AT_A_TIME, *arguments]
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        found = main(given)
    assert found == code, f"exit code {found}\n{output.getvalue()}"
    assert "Traceback" not in output.getvalue()
    return output.getvalue()


def finalised_speech(folder: Path, prepared: Path, space: str) -> Path:
    """Search a space of two trials on demo speech in a folder, and finalize both together; the search's folder."""
    from tuning.cli import finalize

    (folder / "space.yaml").write_text(space)
    places = (f"space={folder / 'space.yaml'}", f"storage={folder}", f"data.prepared={prepared}", "name=speech")
    run(*places, "task.name=classification", "data.corpus=demo_speech", *TINY[1:])
    assert finalize.main([str(folder / "speech"), "ensemble=2"]) == 0
    return folder / "speech"


REFUSE = """
import contextlib, io, json, sys
from tuning.run import main

found = []
for arguments in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as error:
        code = main(arguments)
    heavy = sorted({"ray", "torch"} & set(sys.modules))
    assert not heavy, f"{arguments} imports {heavy}"
    found.append((code, output.getvalue(), error.getvalue()))
print(json.dumps(found))
"""


def refusals(commands: Sequence[Sequence[str]]) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each command, all run in one process that may import neither Ray nor torch."""
    result = subprocess.run(
        [sys.executable, "-c", REFUSE], input=json.dumps(commands), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return [tuple(each) for each in json.loads(result.stdout)]
