"""MLflow: which store, who acts there, and the runs of a compression."""
