"""`python -m langgraph_kvfork demo`: a graph whose branches read one document, prefilled once."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Args:
        arguments: What stands behind the program's name; None: take it from `sys.argv`.
    """
    options = _parser().parse_args(arguments)
    try:
        from langgraph_kvfork import _demo
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "rich":
            raise
        print(
            "The demo draws with rich, which is not installed: "
            "`pip install 'langgraph-kvfork[demo]'`.",
            file=sys.stderr,
        )
        return 1
    from langgraph_kvfork.errors import KVForkError

    try:
        asyncio.run(_demo.demo(options))
    except KVForkError as error:
        print(f"The demo cannot go on: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m langgraph_kvfork", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="eight agents read one document",
        description="Eight agents read one document that is prefilled once; then the same graph "
        "runs with sharing off.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("--document", type=Path, help="text to read; else this package's license")
    demo.add_argument("--model", help="GGUF file; else SmolLM2-135M-Instruct")
    demo.add_argument("--branches", type=_branches, default=8, help="agents, 1 to 8")
    demo.add_argument("--max-tokens", type=_positive, default=48, help="most tokens per answer")
    demo.add_argument("--n-ctx", type=_positive, default=24576, help="KV cells for all together")
    demo.add_argument("--no-compare", action="store_true", help="leave out the run without sharing")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not possible: give 1 or more")
    return number


def _branches(text: str) -> int:
    number = _positive(text)
    if number > 8:
        raise argparse.ArgumentTypeError(f"{number} is not possible: the demo has eight questions")
    return number


if __name__ == "__main__":
    sys.exit(main())
