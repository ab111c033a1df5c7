"""One whole sweep in a process of its own, task by task, and registered."""

import sys
from pathlib import Path

from fastprune.stages.run_node import run_node
from fastprune.sweep.graph import nodes
from fastprune.sweep.reading import read_config


def main(config: str, root: str) -> None:
    sweep = read_config(config)
    for node in nodes(sweep):
        run_node(sweep, node, root)
    [released] = Path(root).glob("register-*/released/released.json")
    assert '"version": ""' not in released.read_text(), released.read_text()


if __name__ == "__main__":
    main(*sys.argv[1:])
