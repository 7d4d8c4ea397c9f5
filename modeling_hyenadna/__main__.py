"""`python -m hyenadna NAME ...` and `accelerate launch -m hyenadna NAME ...` run the command line."""

import sys

if __name__ == "__main__":
    from hyenadna.training.cli import main

    sys.exit(main())
