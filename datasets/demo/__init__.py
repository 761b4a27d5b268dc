"""Corpora that are made on the first run: music, speech, and songs with lyrics, without data or network."""
