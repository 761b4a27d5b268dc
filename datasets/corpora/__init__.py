"""Published corpora and your own manifest: each module reads clips with their labels."""
