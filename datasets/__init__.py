"""Corpora, splits, features, and the batches that models train on."""

if __name__ != "tuning.datasets":
    raise ImportError("this folder is the package tuning.datasets; import that")

# Corpus layouts by name, as dotted paths, so that a name is checked without importing anything heavy.
CORPORA: dict[str, str] = {
    "cremad": "tuning.datasets.corpora.cremad:load",
    "deam": "tuning.datasets.corpora.deam:load",
    "demo": "tuning.datasets.demo.music:load",
    "demo_bimodal": "tuning.datasets.demo.songs:load",
    "demo_speech": "tuning.datasets.demo.speech:load",
    "emodb": "tuning.datasets.corpora.emodb:load",
    "iemocap": "tuning.datasets.corpora.iemocap:load",
    "manifest": "tuning.datasets.corpora.manifest:load",
    "merge": "tuning.datasets.corpora.merge:load",
    "pmemo": "tuning.datasets.corpora.pmemo:load",
    "ravdess": "tuning.datasets.corpora.ravdess:load",
}


def is_demo(corpus: str) -> bool:
    """Whether a corpus is one of those that are made on the spot, below the prepared features."""
    return CORPORA.get(corpus, "").startswith("tuning.datasets.demo.")
