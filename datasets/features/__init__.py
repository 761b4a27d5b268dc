"""Decode recordings and texts, and compute features: spectra, hidden states, augmented waveforms."""
