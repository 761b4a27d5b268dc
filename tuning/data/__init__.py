"""Everything that the trials of a space read: features, texts, augmented and generated clips."""
