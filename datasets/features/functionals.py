"""eGeMAPS: 88 statistics of pitch, loudness, voice quality and formants over a recording, by openSMILE.

Eyben et al. (2016), "The Geneva Minimalistic Acoustic Parameter Set (GeMAPS) for voice research and affective
computing", IEEE Transactions on Affective Computing 7(2).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np


def functionals(waveforms: Sequence[np.ndarray], sample_rate_hz: int) -> list[tuple[np.ndarray, int]]:
    """Compute eGeMAPS v02 float32 [1, 88] of waveforms [samples], each one valid frame.

    Values are openSMILE's own, in its order. A voice that is nowhere found has zeros.
    """
    smile = _smile()
    found = (smile.process_signal(waveform.astype(np.float32), sample_rate_hz) for waveform in waveforms)
    return [(table.to_numpy(np.float32), 1) for table in found]


@lru_cache(maxsize=1)
def _smile() -> Any:
    import opensmile  # an extra, whose licence is not for all

    return opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
