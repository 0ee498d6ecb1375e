"""`python -m truthloop` is the command `truthloop`."""

from truthloop.cli.main import main

if __name__ == "__main__":
    main()
