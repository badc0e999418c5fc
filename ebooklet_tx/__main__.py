"""`python -m ebooklet_tx`.

Owns no state: the commands are `cli`'s.
"""

import sys

from ebooklet_tx.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
