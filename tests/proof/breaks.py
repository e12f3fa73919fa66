"""Ways to break the engine, each of which some test has to notice: `controls.py` tries them."""

from __future__ import annotations

from dataclasses import dataclass

BITS, PLAIN, WINDOW, MOVES = "attention, bits", "attention", "window, bits", "window, moves on"
RECURRENT = "recurrent"
LORA = "tests/integration/engine/test_lora.py"

SCHEDULER = "csrc/scheduler/scheduler.cpp"
SEQUENCES = "csrc/cache/sequences.cpp"
TREE = "csrc/cache/prefix_tree.cpp"
SAMPLER = "csrc/text/sampler.cpp"
REQUEST = "langgraph_kvfork/branches/request_struct.py"
LLAMA = "build/llama.cpp/src/"


@dataclass(frozen=True)
class Break:
    """A small change that makes the engine wrong.

    Attributes:
        what: In words.
        file: In the repository, or, in build/, of the patched llama.cpp.
        before: Text that the file has once.
        after: What takes its place.
        seen_by: Where it has to be noticed: kinds of memory for the fuzzer, or test files; the
            first that notices it ends the search.
    """

    what: str
    file: str
    before: str
    after: str
    seen_by: tuple[str, ...] = (BITS, PLAIN)


BREAKS = (
    Break(
        "a fork begins one token late",
        SCHEDULER,
        "    branch.n_cached = n_forked;\n",
        "    branch.n_cached = n_forked + (n_forked > 0 && n_forked + 1 < branch.tokens.size());\n",
    ),
    Break(
        "a fork begins one token early",
        SEQUENCES,
        "llama_memory_seq_fork(memory_, src, dst, static_cast<llama_pos>(n));",
        "llama_memory_seq_fork(memory_, src, dst, static_cast<llama_pos>(n > 1 ? n - 1 : n));",
    ),
    Break(
        "the page in the middle of which a fork begins is not copied",
        SEQUENCES,
        "if (llama_memory_seq_own_page(memory_, dst) || !room_.is_strict()) {",
        "if (true || !room_.is_strict()) {",
    ),
    Break(
        "the copy of that page has no data",
        LLAMA + "llama-kv-pages.cpp",
        "    copy_data(i0, page_new*PAGE + i0 % PAGE, i1 + 1 - i0);\n",
        "",
    ),
    Break(
        "a fork begins with a new sampler",
        SCHEDULER,
        "clone_sampler(from.sampler.get(), seed)",
        "make_sampler(model_, from.sampling, from.tokens, from.tokens.size())",
    ),
    Break(
        "a fork forgets its grammar",
        "build/llama.cpp/common/sampling.cpp",
        "llama_sampler_clone(gsmpl->grmr)",
        "nullptr",
    ),
    Break(
        "a fork ignores its seed",
        SAMPLER,
        "if (seed != LLAMA_DEFAULT_SEED) {",
        "if (seed != LLAMA_DEFAULT_SEED && false) {",
    ),
    Break(
        "penalties do not look at the prompt",
        SAMPLER,
        "for (size_t i = 0; i < tokens.size(); ++i) {\n        common_sampler_accept",
        "for (size_t i = n_prompt; i < tokens.size(); ++i) {\n        common_sampler_accept",
    ),
    Break(
        "a sequence is given back twice",
        SEQUENCES,
        "    free_.push_back(seq); // it has been there\n",
        "    free_.push_back(seq);\n    free_.push_back(seq);\n",
    ),
    Break(
        "a sequence is given back with its cells",
        SEQUENCES,
        "    llama_memory_seq_drop(memory_, seq);\n    free_",
        "    free_",
    ),
    Break(
        "a mask shows the cells of others",
        LLAMA + "llama-kv-cache.cpp",
        "                if (!cells.seq_has(j, seq_id)) {\n                    goto skip;",
        "                if (false) {\n                    goto skip;",
    ),
    Break(
        "a recurrent state is forked where it is not",
        LLAMA + "llama-memory-fork.cpp",
        "    if (parts.recr && (parts.recr->seq_pos_max(src) != n - 1",
        "    if (false && (parts.recr->seq_pos_max(src) != n - 1",
        (RECURRENT,),
    ),
    Break(
        "a window that has moved on is forked all the same",
        LLAMA + "llama-memory-fork.cpp",
        "kv->hparams.n_pos_per_embd() > 1).ok) {\n            return 0;",
        "kv->hparams.n_pos_per_embd() > 1).ok) {\n            continue;",
        (MOVES, WINDOW),
    ),
    Break(
        "the snapshot that a branch is to start from makes room for it",
        SCHEDULER,
        "make_room(need, sequences_.none_left(), /* but = */ prefix.seq, is_alone)",
        "make_room(need, sequences_.none_left(), /* but = */ -1, is_alone)",
    ),
    Break(
        "a prefix is looked for outside of its namespace",
        TREE,
        "const auto   root = roots_.find(name_space);",
        "const auto   root = roots_.find(name_space.substr(0, 0));",
    ),
    Break(
        "the store ignores namespaces",
        "csrc/store/shelf.cpp",
        "Sha256().add(fingerprint).add(name_space).digest()",
        "Sha256().add(fingerprint).add(name_space.substr(0, 0)).digest()",
    ),
    Break(
        "a segment's name forgets its parent",
        "csrc/store/segment.cpp",
        "        .add(parent)\n",
        "",
        ("tests/proof/test_segments.py",),
    ),
    Break(
        "a snapshot's first rows are saved in place of later ones",
        "csrc/store/saves.cpp",
        "segment.begin + static_cast<llama_pos>(save.n_copied)",
        "segment.begin",
    ),
    Break(
        "rows of the store come to the wrong positions",
        "csrc/scheduler/restores.cpp",
        "static_cast<uint32_t>(branch.n_cached - segment.begin)",
        "0",
    ),
    Break(
        "engines with and without an adapter are one",
        "langgraph_kvfork/engine/params.py",
        "        None if params.lora_file is None else params.lora_scale,\n",
        "",
        (LORA,),
    ),
    Break(
        "a stop string is part of the text",
        "csrc/text/text_stream.cpp",
        "        held_.resize(i_stop);\n",
        "",
    ),
    Break(
        "a branch that is to leave nothing leaves all",
        SCHEDULER,
        "if (!branch.share || branch.keep == KVF_KEEP_NONE) {",
        "if (!branch.share) {",
    ),
    Break(
        "a branch that is not to share forks",
        SCHEDULER,
        "branch.share ? find_prefix(branch) : Prefix()",
        "find_prefix(branch)",
    ),
    Break(
        "who waits for a branch is not woken when it ends",
        SCHEDULER,
        "    waiting_.wake(branch);\n\n    const auto now ",
        "    const auto now ",
    ),
    Break(
        "nobody waits for a prefix that another branch computes",
        SCHEDULER,
        "        if (prefix.awaited) {\n",
        "        if (prefix.awaited && false) {\n",
    ),
    Break(
        "a branch that gave way believes that it still has its cells",
        SCHEDULER,
        "    branch.n_cached = 0; // its fork points stay: others may still wait for them\n",
        "",
    ),
    Break(
        "a snapshot stands in the tree with a token that is not computed",
        SCHEDULER,
        "            tree_.truncate(branch.seq, n);\n",
        "",
    ),
    Break(
        "pages are not strict in batch-invariant mode",
        "csrc/cache/room.cpp",
        "strict ? LLAMA_PAGED_STRICT : LLAMA_PAGED_PREFER",
        "LLAMA_PAGED_PREFER",
    ),
    Break(
        "a branch is sampled from its neighbour's logits",
        SCHEDULER,
        "sample(branch, r.i_logits, out);",
        "sample(branch, rows.front().i_logits >= 0 ? rows.front().i_logits : r.i_logits, out);",
    ),
    Break(
        "the tree takes one token more for common than is",
        TREE,
        "return n > 0 && visit(seq, n); });",
        "return n > 0 && visit(seq, n + 1); });",
    ),
    Break(
        "a prompt that is cached to its end has no logits",
        SCHEDULER,
        "branch.tokens.size() - (branch.n_predict == 0 ? 0 : 1);",
        "branch.tokens.size();",
    ),
    Break(
        "prefilled tokens are not counted",
        SCHEDULER,
        "            stats_.prefilled_tokens += r.n;\n",
        "",
    ),
    Break(
        "the namespace is not handed to the library",
        REQUEST,
        "    if request.namespace is not None:\n",
        "    if request.namespace is None and request.namespace is not None:\n",
    ),
    Break(
        "what is not to be kept is",
        REQUEST,
        "result.keep = _KEEP[request.keep]",
        "result.keep = _KEEP[True]",
    ),
    Break(
        "the seed is not handed to the library",
        REQUEST,
        "RANDOM_SEED if random else request.seed",
        "7 if random else 7",
    ),
)
