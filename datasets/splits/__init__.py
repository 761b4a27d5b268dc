"""Who trains, validates and is sealed for the test: by groups, shares, columns or folds."""
