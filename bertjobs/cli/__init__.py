"""The command line: options, checks before anything is started, tables for people, JSON for programs."""
