"""`python -m ebooklet_tx`: the commands of `cli`."""

import sys

from ebooklet_tx.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
