"""What can be set, how space files and command lines are read, and what is refused. Imports nothing heavy."""
