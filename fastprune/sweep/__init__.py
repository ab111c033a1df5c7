"""The configuration of a sweep and the graph of its stages; nothing here imports torch, so that Airflow can."""
