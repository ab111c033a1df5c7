"""``python -m pipelines``: another name of ``fastprune``, as in version 0.1.0."""

from fastprune.cli.main import main

if __name__ == "__main__":
    main(prog_name="fastprune")
