"""The command line: numbers that are the engine's, errors in words, exit statuses."""

import json
import re

import pytest

from langgraph_kvfork import ForkReport
from langgraph_kvfork.cli.main import main
from langgraph_kvfork.engine.default_model import smollm2_path
from langgraph_kvfork.machine.free_memory import free_memory


def run(capsys, *arguments):
    status = main(arguments)
    out, err = capsys.readouterr()
    return status, out, err


def test_inspect_says_what_the_engine_takes(capsys, llm, engine):
    status, out, _ = run(capsys, "inspect", smollm2_path(), "--json")
    assert status == 0
    model = json.loads(out)
    assert model["architecture"] == "llama"
    assert model["n_ctx_train"] == engine.n_ctx_train
    assert model["n_vocab"] == 49152
    assert model["memory"] == "anywhere"
    # 30 layers, 3 KV heads of 64 values, K and V, two bytes each
    assert model["cell_bytes"] == 30 * 3 * 64 * 2 * 2
    # what SmolLM2 would take a branch at a time, against free memory
    fits = model["fits"]
    assert 0 < fits["cells"] * model["cell_bytes"] < free_memory()
    last = fits["branches"][-1]
    assert last["context"] == engine.n_ctx_train
    assert last["sharing"] >= last["alone"] > 0


def test_inspect_for_people(capsys):
    status, out, _ = run(capsys, "inspect", smollm2_path())
    assert status == 0
    assert "forks:    anywhere" in out
    assert "23,040 bytes per token" in out
    assert "branches that share it" in out


def test_doctor(capsys):
    status, out, _ = run(capsys, "doctor", "--json")
    found = json.loads(out)
    assert status == 0
    assert [d["type"] for d in found["devices"]].count("CPU") == 1
    assert found["library"].endswith(("libllama.so", "libllama.dylib"))
    assert found["features"]
    assert found["model"]["path"] == smollm2_path()

    status, out, _ = run(capsys, "doctor")
    assert status == 0
    for word in (found["version"], "device:", "memory:", "fits:", found["library"]):
        assert word in out


@pytest.mark.parametrize("command", [["inspect"], ["doctor", "--model"], ["bench", "--model"]])
def test_what_is_no_model_is_said_in_words(capsys, command, tmp_path):
    path = tmp_path / "model.gguf"
    status, out, err = run(capsys, *command, str(path))
    assert (status, out) == (1, "")
    assert err == (
        f"{command[0]} cannot go on: model_path={str(path)!r} does not exist: pass the path of a "
        "GGUF file.\n"
    )
    path.write_bytes(b"nonsense")
    assert "is not a GGUF file" in run(capsys, *command, str(path))[2]


def test_report_shows_a_saved_run_in_every_form(capsys, llm, engine, tmp_path):
    with ForkReport() as report:
        llm.invoke("Hello.")
    path = tmp_path / "run.json"
    report.save(path)
    assert run(capsys, "report", str(path)) == (0, f"{report}\n", "")
    assert run(capsys, "report", str(path), "--html")[1] == f"{report.html()}\n"
    assert run(capsys, "report", str(path), "--mermaid")[1] == f"{report.mermaid()}\n"
    assert json.loads(run(capsys, "report", str(path), "--json")[1]) == report.as_dict()
    status, out, err = run(capsys, "report", str(tmp_path))
    assert (status, out) == (1, "")
    assert "is no saved report" in err


def test_a_wrong_call_ends_with_status_2(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["inspect"])
    assert exit.value.code == 2
    assert "the following arguments are required: model" in capsys.readouterr().err


def test_bench_measures_the_same_with_sharing_and_without(capsys):
    sizes = ["--prefix", "100", "--branches", "3", "--max-tokens", "2"]
    status, out, err = run(capsys, "bench", *sizes, "--rounds", "2", "--json")
    assert status == 0
    assert [line.split(":")[0] for line in err.splitlines()] == ["round 1 of 2", "round 2 of 2"]
    found = json.loads(out)
    shared, alone = found["shared"], found["alone"]
    assert shared["generated"] == alone["generated"] == 3 * 2
    assert alone["forked"] == 0
    assert shared["prefilled"] + shared["forked"] == alone["prefilled"] > 3 * 100
    assert shared["forked"] >= 2 * 100
    assert found["prefix_tokens"] == 100
    for times in (shared["seconds"], alone["seconds"]):
        assert 0 < times["fastest"] <= times["median"] <= times["slowest"]

    status, out, _ = run(capsys, "bench", *sizes, "--rounds", "1")
    assert status == 0
    assert "3 branches over 100 tokens, 2 generated each, 1 rounds" in out
    assert re.search(r"^share_prefix=False .* 0 +6$", out, re.MULTILINE)
    assert "times as fast" in out


def test_bench_says_in_words_what_does_not_fit(capsys):
    arguments = ["bench", "--prefix", "300", "--n-ctx", "256", "--max-tokens", "1"]
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (1, "")
    assert err.startswith("bench cannot go on: ")
    for option in (["--branches", "65"], ["--rounds", "0"], ["--prefix", "many"]):
        with pytest.raises(SystemExit) as exit:
            main(["bench", *option])
        assert exit.value.code == 2
        assert "is not possible" in capsys.readouterr().err
