"""Models by name. A new model is one file and one line here; dotted paths keep torch out of a name check."""

# Name -> where the class is, and where its settings are.
MODELS: dict[str, tuple[str, str]] = {
    "crnn": ("models.crnn:CRNN", "models.settings:CRNNSettings"),
    "ser": ("models.ser:SER", "models.settings:SERSettings"),
    "bimodal": ("models.bimodal:Bimodal", "models.settings:BimodalSettings"),
    "vit": ("models.vit:ViT", "models.settings:ViTSettings"),
}
