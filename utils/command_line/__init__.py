"""The command line: flags, errors in one line, and opening the inputs of a stage."""
