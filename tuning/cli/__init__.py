"""One thin module for each command: read the options, call, print."""
