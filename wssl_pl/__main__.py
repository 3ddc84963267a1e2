"""`python -m wssl_pl`: the `wssl` command."""

from wssl_pl.cli import main

if __name__ == "__main__":
    main()
