"""Models by name. A new model is one file and one line here.

The file has a class with its `Settings` nested in it. To keep torch out of `--help` and of every check before a search,
the settings of the models here are classes of light modules of their own: those of `crnn.py` are `CRNNSettings` in
`crnn_settings.py`, which `CRNN.Settings` names.
"""

if __name__ != "tuning.models":
    raise ImportError("this folder is the package tuning.models; import that")

MODELS: dict[str, str] = {
    "crnn": "tuning.models.crnn:CRNN",
    "ser": "tuning.models.ser:SER",
    "mlp": "tuning.models.mlp:MLP",
    "bimodal": "tuning.models.bimodal:Bimodal",
    "vit": "tuning.models.vit:ViT",
}
OF_ONE_FRAME = ("mlp",)  # they need no sequence
