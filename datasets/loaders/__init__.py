"""Batches that models train on: from memory or streamed, with texts, folds, generated clips, masks and mixup."""
