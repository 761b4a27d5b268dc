"""Import torchaudio where its compiled part can't be loaded, too.

Its wheels on PyPI are built with CUDA and don't import beside a PyTorch without; since 2.9 it is in maintenance
(https://github.com/pytorch/audio/issues/3902). A wheel of another CUDA refuses as well. What is used here is written in
PyTorch alone. Where the plain import works, this module does nothing else.
"""

import importlib
import sys
from types import ModuleType

COMPILED = "torchaudio._extension"


def load() -> ModuleType:
    """Import torchaudio, without its compiled part where that can't be loaded. Raises ImportError if it is missing."""
    try:
        return importlib.import_module("torchaudio")
    except (OSError, RuntimeError):
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
            del sys.modules[name]
    absent = ModuleType(COMPILED)
    vars(absent).update(_IS_TORCHAUDIO_EXT_AVAILABLE=False, _IS_ALIGN_AVAILABLE=False, fail_if_no_align=lambda f: f)
    sys.modules[COMPILED] = absent
    return importlib.import_module("torchaudio")


functional = load().functional
