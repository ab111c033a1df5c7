"""Configuration files of sweeps."""

import yaml

SWEEP = """\
name: reviews
models:
  - name: one
    source: org/one
    task: sst2
  - name: two
    source: org/two
    task: mrpc
budgets:
  - keep_ratio: 0.6
  - keep_ratio: 0.5
    constraint: latency
importance_shards: 2
latency:
  batch_size: 16
schedule:
  cron: 0 30 2 * * mon-fri
cluster:
  image: registry.example/fastprune:1
  accelerators:
    v100:
      resource: nvidia.com/gpu
      node_selector: {gpu: v100}
  stages:
    default: {cpu: 2, memory: 8Gi, retries: 1}
    profile: {accelerator: v100, retries: 3}
"""


def write_config(path, source, **given):
    """The file of a sweep of one model; ``source`` is the fixture's."""
    model = {name: value for name, value in source.items() if name != "num_samples"}
    document = {
        "name": "tiny",
        "models": [{"name": "bert"} | model],
        "budgets": [{"keep_ratio": 0.5}],
        "num_samples": source["num_samples"],
        "device": "cpu",
    }
    path.write_text(yaml.safe_dump(document | given))
    return path
