"""The command line: a module a group of commands, each with its flags and one call."""
