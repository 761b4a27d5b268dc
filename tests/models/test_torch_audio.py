"""torchaudio beside any PyTorch: as it is where it can be imported, without its compiled part where it can't."""

import subprocess
import sys

import librosa
import numpy as np
import pytest

from tests.helpers.tiny_bert import write_encoder
from tuning.models import torch_audio

# Stands in for torchaudio: a package whose compiled part is there, is not to be loaded, or is of another CUDA.
PACKAGE = {
    "there": "compiled = True",
    "not to be loaded": "raise OSError('libtorch_cuda.so: cannot open shared object file')",
    "of another CUDA": "raise RuntimeError('Detected that PyTorch and TorchAudio were compiled with different CUDA')",
}
LOADED = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.helpers.tiny_bert import write_encoder
from tuning.models import torch_audio
extension = sys.modules["torchaudio._extension"]
print(torch_audio.functional.name, getattr(extension, "compiled", False))
"""


@pytest.mark.parametrize("extension", PACKAGE)
def test_the_plain_import_stays_where_it_works(tmp_path, extension):
    package = tmp_path / "torchaudio"
    (package / "functional").mkdir(parents=True)
    (package / "__init__.py").write_text("from . import _extension\nfrom . import functional\n")
    (package / "functional" / "__init__.py").write_text(
        "from torchaudio._extension import fail_if_no_align, _IS_TORCHAUDIO_EXT_AVAILABLE as compiled\nname = 'plain'\n"
    )
    needed = "_IS_TORCHAUDIO_EXT_AVAILABLE = True\nfail_if_no_align = None\n"
    (package / "_extension.py").write_text(f"{needed}{PACKAGE[extension]}\n")
    done = subprocess.run([sys.executable, "-c", LOADED, tmp_path], capture_output=True, text=True, check=False)
    assert done.stdout == f"plain {extension == 'there'}\n", done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import tuning.models.vit",
        "import tuning.datasets.demo.text_encoder",
        "from tuning.models.pretrained import load_encoder; load_encoder('encoder')",
        "from tuning.models.pretrained import load_tokenizer; load_tokenizer('encoder')",
        "from tuning.models.encoder_shapes import text_shape; text_shape('encoder')",
    ],
)
def test_models_of_transformers_are_loaded_in_a_process_that_has_imported_nothing(tmp_path, code):
    """They import torchaudio by themselves; here the tests have imported it before."""
    write_encoder(tmp_path / "encoder")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_missing_torchaudio_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    with pytest.raises(ImportError, match="torchaudio"):
        torch_audio.load()


def test_the_real_one_is_there_and_has_the_filters_of_librosa():
    ours = torch_audio.functional.melscale_fbanks(1025, 0.0, 8000.0, 64, 16000, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(ours.T, librosa.filters.mel(sr=16000, n_fft=2048, n_mels=64), atol=1e-6)
