"""Hyperparameter search for audio emotion models on Ray, from raw recordings to an honest ranking."""
