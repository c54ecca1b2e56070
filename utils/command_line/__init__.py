"""The command line: flags, errors in one line, and opening what a stage was asked for."""
