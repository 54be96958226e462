"""The suites: thin pytest files; what they run is in lossspec."""
