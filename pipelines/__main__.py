"""``python -m pipelines``: another name for the command ``fastprune``."""

from fastprune.cli.main import main

if __name__ == "__main__":
    main(prog_name="fastprune")
