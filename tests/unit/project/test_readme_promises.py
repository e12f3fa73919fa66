"""Each promise of the README, and the tests that would fail if it were broken."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
README = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())

GRAPH, CHAT, ENGINE = "integration/graph/", "integration/chat/", "integration/engine/"
PROMISES = {
    "The context that parallel branches have in common is computed once": [
        GRAPH + "test_graph_sharing.py::test_eight_sync_branches_on_a_cold_engine",
        GRAPH + "test_graph_shapes.py",
    ],
    "each branch is a fork that shares its KV cells, and all branches decode together": [
        "native/cache/test_forks.cpp",
        "native/test_scheduler.cpp",
    ],
    "Two commands do everything": [
        "integration/project/test_readme.py::test_its_commands_are_targets_of_the_makefile"
    ],
    "There are notebooks to try": ["integration/project/test_notebooks.py"],
    "llama-cpp-python itself is not needed.": [
        ENGINE + "test_library.py::test_no_llama_cpp_python_is_needed_and_one_of_another_version"
        "_does_no_harm"
    ],
    "both work in one process": [
        ENGINE + "test_library.py::test_ours_and_a_stock_llama_cpp_share_a_process"
    ],
    "downloads another one": ["unit/engine/test_hub.py"],
    "Sharing needs no help.": [
        GRAPH + "test_graph_sharing.py::test_our_nodes_share_as_a_plain_graph_does"
    ],
    "`cache_read` is the number of prompt tokens that the fork shares": [
        CHAT + "test_chat_model.py::test_usage_and_metadata_come_once_and_say_the_same_in_streams"
    ],
    "`PrefillNode(llm, wait=False)` returns at once": [
        GRAPH
        + "test_prefill_node.py::test_it_goes_on_at_once_and_what_follows_waits_for_the_prefix"
    ],
    "A branch is a text, a list of messages, or a function of the state": [
        "unit/graph/test_nodes.py::test_a_branch_is_text_or_messages_or_a_function_of_the_state"
    ],
    "The state must declare that key.": [
        "unit/graph/test_output_keys.py::test_a_key_that_the_state_lacks_is_refused"
    ],
    "`ForkNode` also takes a list of branches": [
        "unit/graph/test_fork_node.py::test_branches_may_come_from_the_state",
        "unit/graph/test_fork_node.py::test_n_answers_to_one_prompt",
        "unit/graph/test_fork_node.py::test_a_branch_can_have_a_model_of_its_own",
    ],
    "takes the first answer for which the function returns true": [
        "unit/graph/test_fork_node.py::test_only_an_acceptable_answer_wins",
        "unit/graph/test_fork_node.py::test_the_first_answer_wins_a_race_and_the_others_are"
        "_cancelled",
    ],
    "puts a failed branch's exception where its answer would be": [
        "unit/graph/test_fork_node.py::test_errors_can_be_collected"
    ],
    "passes each answer to the state's reducer": [
        "unit/graph/test_fork_node.py::test_answers_go_through_the_states_reducers"
    ],
    "runs at most four branches at a time": [
        "unit/graph/test_fork_node.py::test_no_more_branches_run_at_a_time_than_asked_for"
    ],
    "writes the branches' tokens to the graph's `custom` stream": [
        GRAPH + "test_branch_tokens.py::test_every_branchs_tokens_and_the_same_result"
    ],
    "A branch can be an agent or another graph": [
        "unit/graph/test_fork_node.py::test_a_graph_is_a_branch",
        "unit/graph/test_fork_node.py::test_a_graph_is_a_branch_whatever_wraps_it",
    ],
    "resumed or tried again runs only the branches that had not finished": [
        "unit/graph/test_fork_interrupts.py::test_each_branch_gets_its_own_answer_whoever_is_faster",
        "unit/graph/test_fork_interrupts.py::test_another_attempt_runs_what_has_not_finished",
        "unit/graph/test_fork_sqlite.py::test_three_processes_of_one_conversation",
    ],
    "each chunk's metadata has its branch": [
        "unit/graph/test_nodes.py::test_streamed_tokens_carry_their_branchs_name"
    ],
    "it samples `n` answers to each path, all of a round in one fan-out": [
        GRAPH + "test_tree_search.py::test_a_round_costs_what_is_said_between_two_answers",
        GRAPH + "test_tree_search.py::test_a_model_that_judges_forks_what_it_judges",
    ],
    "the tokens that were prefilled, forked and generated, and what sharing saved": [
        GRAPH + "test_fork_report.py::test_totals_equal_the_engines_counters",
        GRAPH + "test_fork_report.py::test_the_memory_that_forks_share_is_what_the_cells_say",
        "unit/graph/test_report_forms.py",
    ],
    "a `SmallPoolWarning` says what it cost": [
        GRAPH + "test_small_pool.py::test_a_map_over_chunks_says_what_a_small_pool_cost",
        GRAPH + "test_small_pool.py::test_a_pool_in_which_branches_only_wait",
    ],
    "They work as with any LangChain model": ["standard/test_integration.py"],
    "`create_agent` takes the model, too": [GRAPH + "test_agent.py"],
    "A grammar holds forced calls and structured answers to their schema": [
        CHAT + "test_structured_output.py::test_what_schemas_say_holds_however_random_the_answer",
        "schemas/test_schemas.py",
    ],
    "A structured answer is whole and matches its schema, or the call raises": [
        CHAT + "test_structured_output.py::test_an_answer_that_a_stop_string_cuts_is_an_error",
        CHAT + "test_structured_output.py::test_an_answer_that_is_cut_off_is_an_error_that_keeps"
        "_its_text",
    ],
    "sets a limit for these answers alone": [
        CHAT + "test_structured_output.py::test_arguments_of_a_call_and_of_bind_reach_the_model"
    ],
    "for every chat template that it knows": ["templates/test_templates.py"],
    "A thinking model's thoughts are in": [
        CHAT + "test_tools.py::test_thoughts_are_told_apart_from_the_text"
    ],
    "an answer is a call, or matches the schema": [
        CHAT + "test_structured_output.py::test_beside_tools_a_model_answers_with_the_schema_or"
        "_calls"
    ],
    "GBNF (`grammar`) excludes both": [
        CHAT + "test_tools.py::test_a_tool_and_a_grammar_exclude_each_other"
    ],
    "never becomes a special token, so no text can forge a turn": [
        "templates/test_text_in_prompts.py",
        CHAT + "test_untrusted_text.py::test_a_forged_turn_is_text_of_the_turn_it_is_in",
    ],
    "gives all of them one system prompt and the tools of all": [
        GRAPH + "test_shared_prefix.py::test_parallel_agents_share_all_but_their_roles"
    ],
    "which it collects where it is not given them": [
        GRAPH + "test_shared_prefix.py::test_tools_are_collected_from_the_agents_that_call"
    ],
    "the agent can still call only its own tools": [
        CHAT + "test_tools.py::test_a_prompt_can_tell_of_more_tools_than_can_be_called"
    ],
    "makes such messages": ["unit/graph/test_order_watch.py::test_what_differs_comes_last"],
    "a `MessageOrderWarning` names the node, the tokens and the message to move": [
        GRAPH + "test_message_order.py::test_a_role_before_the_document_is_warned_of_once"
    ],
    "start from what earlier calls left in the cache": [
        CHAT + "test_chat_model.py::test_a_conversation_goes_on_from_its_last_turn"
    ],
    "prefixes that no running graph needs are dropped first": [
        ENGINE
        + "test_prefix_lifetimes.py::test_calls_within_a_run_are_marked_and_let_go_at_its_end"
    ],
    "Each takes `--json`.": ["integration/project/test_command_line.py"],
    "It refuses unknown names.": [
        "unit/chat/test_construction.py::test_an_unknown_argument_is_refused_by_name"
    ],
    "may differ from call to call": [
        CHAT + "test_configuration.py::test_a_call_overrides_what_is_bound_and_that_what_is"
        "_constructed"
    ],
    "Making a `ChatKVFork` costs nothing": [
        "unit/chat/test_construction.py::test_constructing_a_model_loads_no_library_and_no_weights"
    ],
    "Models with the same engine parameters share one engine": [
        CHAT + "test_chat_model.py::test_engines_are_shared_by_parameters"
    ],
    "engines of one file its weights": [
        ENGINE + "test_engine_lifetimes.py::test_engines_of_one_file_share_its_weights_and_the_last"
        "_one_frees_them"
    ],
    "`llm.load()` and `llm.close()` do it by hand": [
        ENGINE + "test_engine_lifetimes.py::test_load_and_close_and_with"
    ],
    "lets an engine go that nobody has called for so long": [
        ENGINE + "test_engine_lifetimes.py::test_an_idle_engine_goes_after_its_keep_alive_and_comes"
        "_back"
    ],
    "`share_prefix=False` turns sharing off.": [
        GRAPH + "test_graph_sharing.py::test_without_sharing_every_branch_computes_its_whole_prompt"
    ],
    "makes a branch's text independent of the other branches, bit for bit": [
        ENGINE
        + "test_batch_invariant.py::test_64_prompts_in_random_company_say_what_they_say_alone"
    ],
    "refuses it where it does not hold": [
        ENGINE + "test_batch_invariant.py::test_it_is_refused_in_words_where_it_cannot_be"
    ],
    "Recurrent and hybrid models": ["archs/test_archs.py"],
}


@cache
def functions(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


@pytest.mark.parametrize("promise", PROMISES)
def test_a_promise_is_made_and_has_its_tests(promise):
    assert promise in README
    for test in PROMISES[promise]:
        name, _, function = test.partition("::")
        path = ROOT / "tests" / name
        assert path.exists(), path
        assert not function or function in functions(path), test


def test_each_argument_of_the_table_has_a_promise():
    rows = re.findall(r"\| `\w+=[^|]*` \| ([^|]+?) \|", README)
    assert len(rows) >= 5
    for row in rows:
        assert any(promise in row or row in promise for promise in PROMISES), row
