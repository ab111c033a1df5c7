from fastprune.cli.main import main

main(prog_name="fastprune")
