"""Models by name. A new model is one file and one line here; dotted paths keep torch out of a name check."""

MODELS: dict[str, str] = {
    "crnn": "models.crnn:CRNN",
}
