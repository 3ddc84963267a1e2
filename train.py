"""`python train.py stage=pretext ...`: the `wssl` command, whose verb defaults to `train`."""

from wssl_pl.cli import main

if __name__ == "__main__":
    main()
