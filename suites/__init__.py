"""The pytest files of the suites, which call lossspec."""
