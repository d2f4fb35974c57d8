"""`python -m gkfs`: the same as the `gkfs` command."""

from gkfs.cli import main

if __name__ == "__main__":
    main()
