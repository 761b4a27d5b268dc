"""Corpora, their splits, their features, and the batches that models train on."""

if __name__ != "tuning.datasets":
    raise ImportError("this folder is the package tuning.datasets; import that")

# Corpus layouts by name, as dotted paths, so that a name is checked without importing anything heavy.
CORPORA: dict[str, str] = {
    "cremad": "tuning.datasets.cremad:load",
    "deam": "tuning.datasets.deam:load",
    "demo": "tuning.datasets.demo:load",
    "demo_bimodal": "tuning.datasets.demo_bimodal:load",
    "demo_speech": "tuning.datasets.demo_speech:load",
    "emodb": "tuning.datasets.emodb:load",
    "iemocap": "tuning.datasets.iemocap:load",
    "manifest": "tuning.datasets.manifest:load",
    "merge": "tuning.datasets.merge:load",
    "pmemo": "tuning.datasets.pmemo:load",
    "ravdess": "tuning.datasets.ravdess:load",
}
