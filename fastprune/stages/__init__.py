"""The compression as an orchestrator runs it: each stage is one file, a function from folders to folders.

A pipeline runs every stage in a process of its own. All that passes between two stages lies in a folder: weights and
masks as safetensors, tables as Parquet, the rest as JSON. A folder gets its name only when it is complete. The first
output of a stage holds ``stage.json``: its name, seconds, settings and metrics. Every output is an artifact with a
manifest (:mod:`fastprune.store.artifacts`).

Which folder goes into which stage: see :mod:`fastprune.sweep.stages`. A ``table`` is given where any budget of the
sweep is latency; the others leave it alone.
"""
