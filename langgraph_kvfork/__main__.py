"""`python -m langgraph_kvfork`, which is the command `kvfork`."""

from __future__ import annotations

import sys

from langgraph_kvfork.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
