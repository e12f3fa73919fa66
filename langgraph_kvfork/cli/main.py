"""The command line: see it work, measure it, see what is installed, read models and reports."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from langgraph_kvfork.report.plain_text import terminal_width


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words behind the program's name; None: those of `sys.argv`.

    Returns:
        The exit status: 0; 1 if it failed, with the reason on stderr; 2 if it was called wrongly;
        130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    from langgraph_kvfork.errors import KVForkError

    command: Callable[[argparse.Namespace], int] = options.run
    try:
        return command(options)
    except KVForkError as error:
        print(f"{options.command} cannot go on: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _demo(options: argparse.Namespace) -> int:
    from langgraph_kvfork.cli.demo import demo

    asyncio.run(demo(options))
    return 0


def _bench(options: argparse.Namespace) -> int:
    from langgraph_kvfork.cli.bench import bench, bench_text

    _show(asyncio.run(bench(options)), bench_text, as_json=options.json)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from langgraph_kvfork.cli.doctor import doctor, doctor_text
    from langgraph_kvfork.engine.default_model import smollm2_path

    _show(
        doctor(smollm2_path() if options.model is None else options.model),
        doctor_text,
        as_json=options.json,
    )
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from langgraph_kvfork.cli.doctor import inspect, inspect_text

    _show(inspect(options.model), inspect_text, as_json=options.json)
    return 0


def _report(options: argparse.Namespace) -> int:
    from langgraph_kvfork.report.fork_report import ForkReport
    from langgraph_kvfork.report.view import text

    report = ForkReport.load(options.file)
    if options.json:
        print(json.dumps(report.as_dict(), indent=1))
    elif options.mermaid:
        print(report.mermaid())
    elif options.html:
        print(report.html())
    else:
        print(text(report, terminal_width()))
    return 0


def _cache(options: argparse.Namespace) -> int:
    from langgraph_kvfork.cli.cache import list_text, listed, prune_text, pruned, store_path

    path = store_path(options.cache_dir)
    if options.action == "prune":
        _show(pruned(path, options.max_size), prune_text, as_json=options.json)
        return 0
    found = listed(path, verify=options.action == "verify")
    _show(found, list_text, as_json=options.json)
    return 1 if options.action == "verify" and found["damaged"] else 0


def _show(
    found: dict[str, Any], as_text: Callable[[dict[str, Any], int | None], str], *, as_json: bool
) -> None:
    print(json.dumps(found, indent=1) if as_json else as_text(found, terminal_width()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m langgraph_kvfork", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    demo = commands.add_parser(
        "demo",
        help="eight agents read one document",
        description="Eight agents read one document that is prefilled once; then the same graph "
        "runs with sharing off.",
    )
    demo.add_argument("--document", type=Path, help="text to read; else this package's license")
    demo.add_argument("--model", help="GGUF file; else SmolLM2-135M-Instruct")
    _count(demo, "--branches", 8, "agents, 1 to 8", _branches)
    _count(demo, "--max-tokens", 48, "most tokens per answer")
    _count(demo, "--n-ctx", 24576, "KV cells for all together")
    demo.add_argument("--no-compare", action="store_true", help="leave out the run without sharing")
    demo.set_defaults(run=_demo)

    bench = commands.add_parser(
        "bench",
        help="measure a fan-out with sharing and without",
        description="Measure the same fan-out with sharing and with share_prefix=False, on your "
        "model and machine: under a minute on two cores, as it stands.",
    )
    bench.add_argument("--model", help="GGUF file; else SmolLM2-135M-Instruct")
    _count(bench, "--prefix", 512, "tokens of the document")
    _count(bench, "--branches", 8, "branches, 1 to 64", _bench_branches)
    _count(bench, "--max-tokens", 16, "tokens of each answer")
    _count(bench, "--rounds", 3, "how often to measure both")
    bench.add_argument(
        "--n-ctx", type=_positive, help="KV cells; else as many as it takes without sharing"
    )
    bench.add_argument("--json", action="store_true", help="for programs")
    bench.set_defaults(run=_bench)

    what = "what is installed, which devices there are, and how many branches would fit"
    doctor = commands.add_parser("doctor", help=what, description=f"Say {what}.")
    doctor.add_argument("--model", help="GGUF file; else SmolLM2-135M-Instruct")
    doctor.add_argument("--json", action="store_true", help="for programs")
    doctor.set_defaults(run=_doctor)

    what = "what a model file says of itself, and how many branches would fit"
    inspect = commands.add_parser("inspect", help=what, description=f"Say {what}.")
    inspect.add_argument("model", help="GGUF file; its weights are not loaded")
    inspect.add_argument("--json", action="store_true", help="for programs")
    inspect.set_defaults(run=_inspect)

    report = commands.add_parser(
        "report",
        help="show a run that ForkReport.save saved",
        description="Show what a run prefilled, forked and generated: a file of ForkReport.save.",
    )
    report.add_argument("file", help="the saved run")
    form = report.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs")
    form.add_argument("--mermaid", action="store_true", help="a flow chart of the forks")
    form.add_argument("--html", action="store_true", help="with bars and a time line")
    report.set_defaults(run=_report)

    cache = commands.add_parser(
        "cache",
        help="show, check or shrink a store of prompts",
        description="Show, check or shrink a store: the cache_dir of a chat model.",
    )
    actions = cache.add_subparsers(dest="action", required=True)
    for name, what in (
        ("list", "what it holds, by model and namespace"),
        ("verify", "read all of it; the exit status is 1 if a file is damaged"),
        ("prune", "remove what is damaged or of no use, then what was used the longest ago"),
    ):
        action = actions.add_parser(name, help=what, description=f"{what.capitalize()}.")
        action.add_argument("--cache-dir", help="its folder; else KVFORK_CACHE_DIR")
        action.add_argument("--json", action="store_true", help="for programs")
        if name == "prune":
            help_text = (
                'what may stay, such as "5GB"; else KVFORK_CACHE_SIZE, else 10GB; 0: nothing'
            )
            action.add_argument("--max-size", help=help_text)
        action.set_defaults(run=_cache)
    return parser


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not possible: pass a number from 1 on")
    return number


def _branches(text: str) -> int:
    number = _positive(text)
    if number > 8:
        raise argparse.ArgumentTypeError(f"{number} is not possible: the demo has eight questions")
    return number


def _bench_branches(text: str) -> int:
    number = _positive(text)
    if number > 64:
        raise argparse.ArgumentTypeError(f"{number} is not possible: 64 run at a time")
    return number


def _count(
    parser: argparse.ArgumentParser,
    name: str,
    default: int,
    what: str,
    kind: Callable[[str], int] = _positive,
) -> None:
    parser.add_argument(name, type=kind, default=default, help=f"{what}; else {default}")
