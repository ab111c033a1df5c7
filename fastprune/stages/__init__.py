"""The compression as an orchestrator runs it: the list of stages, each from folders to folders, tracked."""
