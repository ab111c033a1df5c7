"""Releases: a version with its evidence in the MLflow registry, the policy, the record, promotion and rollback."""
