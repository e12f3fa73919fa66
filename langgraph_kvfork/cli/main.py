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
    if options.server is not None:
        from langgraph_kvfork.cli.server_bench import server_bench, server_bench_text

        _show(asyncio.run(server_bench(options)), server_bench_text, as_json=options.json)
        return 0
    from langgraph_kvfork.cli.bench import bench, bench_text

    _show(asyncio.run(bench(options)), bench_text, as_json=options.json)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    if options.server is not None:
        from langgraph_kvfork.cli.server_doctor import server_doctor, server_text

        found = server_doctor(options.server, options.api_key)
        _show(found, server_text, as_json=options.json)
        return 0
    from langgraph_kvfork.cli.doctor import doctor, doctor_text
    from langgraph_kvfork.engine.default_model import smollm2_path

    _show(
        doctor(smollm2_path() if options.model is None else options.model, options.cache_dir),
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


def _cache_list(options: argparse.Namespace) -> int:
    from langgraph_kvfork.cli.cache import list_text, listed, store_path

    found = listed(store_path(options.cache_dir), verify=options.action == "verify")
    _show(found, list_text, as_json=options.json)
    return 1 if options.action == "verify" and found["damaged"] else 0


def _cache_prune(options: argparse.Namespace) -> int:
    from langgraph_kvfork.cli.cache import prune_text, pruned, store_path

    found = pruned(store_path(options.cache_dir), options.max_size)
    _show(found, prune_text, as_json=options.json)
    return 0


def _cache_warm(options: argparse.Namespace) -> int:
    from langgraph_kvfork.cli.documents import is_all_there, warmed, warmed_text

    found = warmed(options)
    _show(found, warmed_text, as_json=options.json)
    return 0 if is_all_there(found) else 1


def _cache_export(options: argparse.Namespace) -> int:
    from langgraph_kvfork.cli.archive import exported, exported_text
    from langgraph_kvfork.cli.cache import store_path
    from langgraph_kvfork.cli.documents import documents

    asked = documents(options) if options.files else None
    path = store_path(options.cache_dir) if asked is None else str(asked.llm.cache_dir)
    found = exported(path, options.archive, options.namespace, asked)
    _show(found, exported_text, as_json=options.json)
    return 0


def _cache_import(options: argparse.Namespace) -> int:
    from langgraph_kvfork.cli.archive import imported, imported_text
    from langgraph_kvfork.cli.cache import store_path

    found = imported(store_path(options.cache_dir), options.archive, options.max_size)
    _show(found, imported_text, as_json=options.json)
    return 1 if found["refused"] else 0


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
        "model and machine: under a minute on two cores, as it stands. With --server, on that "
        "server: with the prefix computed first, and sent as ChatOpenAI sends it.",
    )
    bench.add_argument(
        "--model", help="GGUF file; else SmolLM2-135M-Instruct. The model's name on a server"
    )
    _count(bench, "--prefix", 512, "tokens of the document")
    _count(bench, "--branches", 8, "branches, 1 to 64", _bench_branches)
    _count(bench, "--max-tokens", 16, "tokens of each answer")
    _count(bench, "--rounds", 3, "how often to measure both")
    bench.add_argument(
        "--n-ctx", type=_positive, help="KV cells; else as many as it takes without sharing"
    )
    bench.add_argument("--server", help="address of a server to measure instead of this machine")
    bench.add_argument("--api-key", help="its key, if it has one")
    _count(bench, "--replicas", 1, "servers behind that address")
    bench.add_argument("--affinity-header", help="the header by which a router before them goes")
    bench.add_argument("--json", action="store_true", help="for programs")
    bench.set_defaults(run=_bench)

    what = "what is installed, which devices there are, what a store holds, and what would fit"
    doctor = commands.add_parser("doctor", help=what, description=f"Say {what}.")
    doctor.add_argument("--model", help="GGUF file; else SmolLM2-135M-Instruct")
    doctor.add_argument("--cache-dir", help="the store's folder; else KVFORK_CACHE_DIR")
    doctor.add_argument("--server", help="address of a server to look at instead of this machine")
    doctor.add_argument("--api-key", help="its key, if it has one")
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

    _add_cache(commands)
    return parser


def _add_cache(commands: Any) -> None:
    """Add the command about a store."""
    cache = commands.add_parser(
        "cache",
        help="fill, show, check, shrink, pack or unpack a store of prompts",
        description="Work on a store: the cache_dir of a chat model.",
    )
    actions = cache.add_subparsers(dest="action", required=True)

    def add(
        name: str, run: Callable[[argparse.Namespace], int], what: str, more: str = ""
    ) -> argparse.ArgumentParser:
        action: argparse.ArgumentParser = actions.add_parser(
            name, help=what, description=f"{what[0].upper()}{what[1:]}. {more}".rstrip()
        )
        action.add_argument("--cache-dir", help="the store's folder; else KVFORK_CACHE_DIR")
        action.add_argument("--json", action="store_true", help="for programs")
        action.set_defaults(run=run)
        return action

    add("list", _cache_list, "what it holds, by model and namespace")
    add("verify", _cache_list, "read all of it; the exit status is 1 if a file is damaged")
    prune = add(
        "prune",
        _cache_prune,
        "remove what is damaged or of no use, then what was used the longest ago",
    )
    prune.add_argument(
        "--max-size",
        help='what may stay, such as "5GB"; else KVFORK_CACHE_SIZE, else 10GB; 0: nothing',
    )
    warm = add(
        "warm",
        _cache_warm,
        "prefill documents into it",
        "An application's prompt forks a document if it begins with the same tokens: the same "
        "messages, and the same tools, of the same model with the same arguments. So name the "
        "application's own model with --llm, tools bound to it included. A text file is one "
        "message, whose text is all of the file, the end of its last line included; a JSON file is "
        "a list of messages. The exit status is 1 if not all of them are in the store.",
    )
    warm.add_argument("files", nargs="+", metavar="FILE", help="a text, or .json: messages")
    _add_model(warm)
    export = add(
        "export",
        _cache_export,
        "pack it, or what documents in it begin with, into a file",
        "With --document, it is what these have to themselves: what a longer prompt stored "
        "together with the end of one is left out, up to 255 tokens. Documents that cache warm put "
        "into a store of their own are packed wholly. The file is written for this user only: it "
        "holds what was in the prompts.",
    )
    export.add_argument("archive", metavar="ARCHIVE", help="the file to write, a new one")
    export.add_argument(
        "--document",
        action="append",
        dest="files",
        metavar="FILE",
        help="only what this begins with, a file as for cache warm; may be given again",
    )
    _add_model(export)
    import_ = add(
        "import",
        _cache_import,
        "take what export packed",
        "All of it is read: what is damaged, or was computed by another build or on another kind "
        "of processor, is refused; the exit status is 1 then. Only take files of those whom you "
        "trust: what is in them decides what the model says.",
    )
    import_.add_argument("archive", metavar="ARCHIVE", help="a file of cache export")
    import_.add_argument(
        "--max-size", help='what the store may have, such as "5GB"; else KVFORK_CACHE_SIZE, or 10GB'
    )


def _add_model(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "--llm",
        metavar="MODULE:NAME",
        help="the application's ChatKVFork, with what is bound to it, in a module that can be "
        "imported from here",
    )
    action.add_argument(
        "--model", help="GGUF file of a model without other arguments; else SmolLM2-135M-Instruct"
    )
    action.add_argument("--namespace", help="of the application's calls; else the model's")
    action.add_argument(
        "--role",
        choices=["system", "human"],
        default="system",
        help="whose message a text is; else system",
    )


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
