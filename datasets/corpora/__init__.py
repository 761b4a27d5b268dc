"""Layouts of published corpora, and a manifest of one's own: each gives the clips with their labels."""
