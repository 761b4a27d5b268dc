"""Train a conditional GAN on spectrograms, measure what it makes, and draw it."""
