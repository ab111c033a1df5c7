from fastprune.cli import main

main(prog_name="fastprune")
