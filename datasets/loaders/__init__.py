"""Batches for training: from memory or streamed, with texts, folds, generated clips, masks and mixup."""
