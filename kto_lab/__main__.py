"""`python -m kto_lab`: the command `kto-lab`."""

from kto_lab.cli import main

if __name__ == "__main__":
    main()
