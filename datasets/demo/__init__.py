"""Demo corpora that are synthesised on the first run, without data or network: music, speech, songs with lyrics."""
