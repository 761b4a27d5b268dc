"""The benchmark of augmentation runs, and its tables have their rows."""

import pytest

from benchmarks import bank
from tuning.datasets.features.waveform_effects import EFFECTS


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_the_tables_of_the_bank(capsys: pytest.CaptureFixture[str]) -> None:
    assert bank.main(["--frames=12", "--versions=1", "--repeats=1"]) == 0
    printed = capsys.readouterr().out
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in printed.splitlines() if line.startswith("|")}
    assert [int(rows[effect][0]) for effect in EFFECTS] == [168] * 6
    assert int(rows["stretch, pitch and noise, two or three of them"][0]) == 4 * 168
    assert int(rows["all of them in one pass"][0]) == 10 * 168
    assert float(rows["clips as they are"][-1]) == 1.0
