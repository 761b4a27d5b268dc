"""Corpora, their splits, their features, and the batches that models train on."""

# Corpus layouts by name, as dotted paths, so that a name is checked without importing anything heavy.
CORPORA: dict[str, str] = {
    "deam": "datasets.deam:load",
    "demo": "datasets.demo:load",
    "manifest": "datasets.manifest:load",
    "pmemo": "datasets.pmemo:load",
}
