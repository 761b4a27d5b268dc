"""Corpora, their splits, their features, and the batches that models train on."""

# Corpus layouts by name, as dotted paths, so that a name is checked without importing anything heavy.
CORPORA: dict[str, str] = {
    "cremad": "datasets.cremad:load",
    "deam": "datasets.deam:load",
    "demo": "datasets.demo:load",
    "demo_bimodal": "datasets.demo_bimodal:load",
    "demo_speech": "datasets.demo_speech:load",
    "emodb": "datasets.emodb:load",
    "iemocap": "datasets.iemocap:load",
    "manifest": "datasets.manifest:load",
    "merge": "datasets.merge:load",
    "pmemo": "datasets.pmemo:load",
    "ravdess": "datasets.ravdess:load",
}
