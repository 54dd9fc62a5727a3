"""`python -m lcp_bench`; all code is in `lcp_bench.cli`, because launchers cannot pickle what `__main__` defines."""

import sys

from lcp_bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
