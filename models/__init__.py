"""Models by name. A new model is one file and one line here; dotted paths keep torch out of a name check."""

if __name__ != "tuning.models":
    raise ImportError("this folder is the package tuning.models; import that")

# Name -> where the class is, and where its settings are.
MODELS: dict[str, tuple[str, str]] = {
    "crnn": ("tuning.models.crnn:CRNN", "tuning.models.settings:CRNNSettings"),
    "ser": ("tuning.models.ser:SER", "tuning.models.settings:SERSettings"),
    "bimodal": ("tuning.models.bimodal:Bimodal", "tuning.models.settings:BimodalSettings"),
    "vit": ("tuning.models.vit:ViT", "tuning.models.settings:ViTSettings"),
}
