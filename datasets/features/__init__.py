"""From the bytes of a recording or a text to what models read: excerpts, spectra, hidden states, effects."""
