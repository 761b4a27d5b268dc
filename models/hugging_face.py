"""Hugging Face's transformers, to be imported from here.

Its models import torchaudio wherever that is installed, also where it can't be loaded. Until one of its names is used,
transformers itself imports neither torchaudio nor PyTorch.
"""

import transformers

from tuning.models import torch_audio

__all__ = ["torch_audio", "transformers"]
