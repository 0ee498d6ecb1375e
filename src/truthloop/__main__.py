"""`python -m truthloop` is the command `truthloop`."""

from truthloop.cli.main import main

main()
