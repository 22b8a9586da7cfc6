"""``python -m iifdet``."""

import sys

from iifdet.cli import main

if __name__ == "__main__":
    sys.exit(main())
