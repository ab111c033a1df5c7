"""The paper's experiments as one grid that can be resumed: its models and tasks, its method and the default in turn."""
