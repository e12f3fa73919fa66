"""The command line on a store: documents go in, out, and into another one; doctor tells of it."""

import json
import os
import shutil
import tarfile

import pytest
from langchain_core.messages import HumanMessage, SystemMessage

from langgraph_kvfork import ChatKVFork
from langgraph_kvfork.cli.main import main
from langgraph_kvfork.engine.default_model import smollm2_path

OPTIONS = {"n_ctx": 2048, "temperature": 0, "max_tokens": 4}
MODULE = """
from langgraph_kvfork import ChatKVFork

llm = ChatKVFork(n_ctx=2048, temperature=0, max_tokens=4, type_k="q8_0")
def weather(city: str) -> str:
    "Say what the weather is."
with_tools = llm.bind_tools([weather])
prompted = (lambda messages: messages) | llm
"""


def run(capsys, *arguments):
    status = main(list(map(os.fspath, arguments)))
    out, err = capsys.readouterr()
    return status, json.loads(out) if "--json" in arguments and out else out, err


@pytest.fixture(scope="module")
def text(document):
    return document[0].content[:3000] + "\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "store"


def restored(folder, messages, **options):
    with ChatKVFork(**{**OPTIONS, **options}, cache_dir=folder) as llm:
        llm.engine._store.wait()
        answer = llm.invoke(messages)
        fork = answer.response_metadata["fork"]
        return fork.get("restored_tokens", 0), fork["prefilled_tokens"]


def test_a_document_is_warmed_once_and_then_forked(capsys, folder, text):
    file = folder.parent / "letter.txt"
    file.write_text(text)
    warm = ["cache", "warm", file, "--cache-dir", folder]
    status, found, _ = run(capsys, *warm, "--json")
    assert status == 0
    (one,) = found["documents"]
    assert one["prefilled"] == one["tokens"] == one["in_store"] > 500
    assert one["restored"] == 0
    # the text is the message, the end of its last line included
    n_restored, n_prefilled = restored(folder, [SystemMessage(text), HumanMessage("Who?")])
    assert n_restored == one["tokens"]
    assert n_prefilled < 20
    assert restored(folder, [SystemMessage(text.strip()), HumanMessage("Who?")])[0] < n_restored
    status, again, _ = run(capsys, *warm, "--json")
    assert (status, again["documents"][0]["restored"]) == (0, one["tokens"])
    status, out, _ = run(capsys, *warm)
    assert status == 0
    assert "letter.txt" in out
    assert str(folder) in out


def test_messages_tools_and_arguments_are_the_applications(capsys, folder, text):
    (folder.parent / "warm_app.py").write_text(MODULE)
    file = folder.parent / "prompt.json"
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
    file.write_text(json.dumps({"messages": messages}))
    where = ["--cache-dir", folder, "--json"]
    status, found, _ = run(
        capsys, "cache", "warm", file, "--llm", "warm_app:with_tools", "--namespace", "n", *where
    )
    assert status == 0
    (one,) = found["documents"]
    import warm_app

    bound = warm_app.with_tools.kwargs
    asked = ["user", text + "\n\nWho?"]
    with ChatKVFork(**OPTIONS, type_k="q8_0", cache_dir=folder, namespace="n") as llm:
        llm.engine._store.wait()
        fork = llm.invoke([messages[0], tuple(asked)], **bound).response_metadata["fork"]
        assert fork["restored_tokens"] >= one["tokens"] - 5
        assert (
            llm.invoke([messages[0], tuple(asked)])
            .response_metadata["fork"]
            .get("restored_tokens", 0)
            < 100
        )  # no tools, another prompt
    assert restored(folder, [messages[0], tuple(asked)], type_k="q8_0")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.txt"], "nowhere.txt cannot be read"),
        (["bad.json"], "bad.json is not a list of messages"),
        (["number.json"], "number.json is not a list of messages"),
        (["empty.txt"], "it is empty"),
        (["bytes.txt"], "bytes.txt cannot be read as text"),
        (["good.txt", "--llm", "warm_app"], "MODULE:NAME"),
        (["good.txt", "--llm", "nowhere_app:llm"], "No module named"),
        (["good.txt", "--llm", "warm_app:nobody"], "has no attribute"),
        (["good.txt", "--llm", "warm_app:prompted"], "no prompt"),
        (["good.txt", "--llm", "warm_app:weather"], "ChatKVFork"),
        (["good.txt", "--llm", "warm_app:llm", "--model", "m.gguf"], "either --model or --llm"),
        (["good.txt", "--model", "nowhere.gguf"], "does not exist"),
    ],
)
def test_what_is_no_document_is_said_in_words(capsys, folder, arguments, said):
    here = folder.parent
    (here / "warm_app.py").write_text(MODULE)
    (here / "good.txt").write_text("Good.")
    (here / "empty.txt").write_text("")
    (here / "bytes.txt").write_bytes(b"\xff\xfe")
    (here / "bad.json").write_text("[")
    (here / "number.json").write_text("[1]")
    status, out, err = run(capsys, "cache", "warm", *arguments, "--cache-dir", folder)
    assert (status, out) == (1, "")
    assert err.startswith("cache cannot go on: ")
    assert said in err


def test_what_is_not_kept_has_another_exit_status(capsys, folder, text, monkeypatch):
    (folder.parent / "short.txt").write_text("Short.")
    arguments = ["cache", "warm", "--cache-dir", folder, "short.txt"]
    assert run(capsys, *arguments)[0] == 1
    assert "fewer than 64 tokens" in run(capsys, *arguments)[1]
    # two documents of which the store has room for one
    monkeypatch.setenv("KVFORK_CACHE_SIZE", "20MB")
    for i in range(2):
        (folder.parent / f"{i}.txt").write_text(f"{i} {text}")
    status, found, _ = run(
        capsys, "cache", "warm", "--cache-dir", folder, "0.txt", "1.txt", "--json"
    )
    assert status == 1
    first, second = found["documents"]
    assert first["in_store"] < first["tokens"]
    assert second["in_store"] == second["tokens"]


def test_no_store_is_said(capsys, folder, monkeypatch):
    monkeypatch.delenv("KVFORK_CACHE_DIR", raising=False)
    (folder.parent / "good.txt").write_text("Good.")
    for arguments in (["warm", "good.txt"], ["export", "a.tar"], ["import", "a.tar"]):
        status, _, err = run(capsys, "cache", *arguments)
        assert status == 1
        assert "KVFORK_CACHE_DIR" in err


@pytest.fixture(scope="module")
def filled(tmp_path_factory, text):
    """Three documents, and a store that has two of them in one namespace, one in another."""
    folder = tmp_path_factory.mktemp("filled")
    for names, namespace in ((("one", "two"), "a"), (("three",), "b")):
        for name in names:
            (folder / f"{name}.txt").write_text(f"{name} {text}")
        files = [str(folder / f"{name}.txt") for name in names]
        where = ["--cache-dir", str(folder / "store"), "--namespace", namespace]
        assert main(["cache", "warm", *files, *where]) == 0
    return folder


@pytest.fixture
def warm(filled, folder):
    """A copy of that store, with the documents beside it."""
    shutil.copytree(filled, folder.parent, dirs_exist_ok=True)
    return folder


def count(found, name="tokens"):
    return sum(shelf[name] for shelf in found["shelves"])


def test_a_store_is_packed_and_unpacked(capsys, warm, text):
    archive, other = warm.parent / "all.tar", warm.parent / "other"
    status, packed, _ = run(capsys, "cache", "export", archive, "--cache-dir", warm, "--json")
    assert status == 0
    assert packed["left_out"] == []
    assert archive.stat().st_mode & 0o777 == 0o600
    status, found, _ = run(capsys, "cache", "import", archive, "--cache-dir", other, "--json")
    assert (status, found["refused"], found["known"]) == (0, [], 0)
    assert found["files"] == packed["files"]
    there, here = (
        run(capsys, "cache", "verify", "--cache-dir", path, "--json")[1] for path in (warm, other)
    )
    assert count(here) == count(there) == found["tokens"] > 1500
    assert here["damaged"] == 0
    assert {s["about"]["namespace"] for s in here["shelves"]} == {"a", "b"}
    assert other.stat().st_mode & 0o777 == 0o700
    # the second time, all of it is known
    again = run(capsys, "cache", "import", archive, "--cache-dir", other, "--json")[1]
    assert (again["files"], again["known"]) == (0, found["files"])
    # and another process forks it
    messages = [SystemMessage(f"three {text}"), HumanMessage("Who?")]
    n_restored, n_prefilled = restored(other, messages, namespace="b")
    assert n_restored > 500
    assert n_prefilled < 20
    # nothing is written over
    status, _, err = run(capsys, "cache", "export", archive, "--cache-dir", warm)
    assert status == 1
    assert "exists" in err
    assert [p.name for p in warm.parent.glob("kvfork-import-*")] == []


def test_some_of_a_store_is_packed(capsys, warm):
    def packed(name, *arguments):
        run(capsys, "cache", "export", f"{name}.tar", "--cache-dir", warm, *arguments)
        with tarfile.open(f"{name}.tar") as tar:
            return {n for n in tar.getnames() if n.endswith(".kv")}

    everything = packed("all")
    of_a, of_b = packed("a", "--namespace", "a"), packed("b", "--namespace", "b")
    assert of_a | of_b == everything
    assert not of_a & of_b
    one, two = (packed(n, "--document", f"{n}.txt", "--namespace", "a") for n in ("one", "two"))
    assert one | two == of_a
    assert one - two
    assert two - one
    status, _, err = run(
        capsys, "cache", "export", "none.tar", "--cache-dir", warm, "--namespace", "c"
    )
    assert status == 1
    assert "nothing of what was asked for" in err


def repacked(archive, change):
    """Write an archive again, with what `change(name, bytes)` makes of each member."""
    out = archive.with_name("changed.tar")
    with tarfile.open(archive) as old, tarfile.open(out, "w") as new:
        for member in old:
            name, data = change(member.name, old.extractfile(member).read())
            (out.parent / "member").write_bytes(data)
            new.add(out.parent / "member", arcname=name)
    return out


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def segments(change):
    """Change what is in the segments, and leave what is said of them."""
    return lambda name, data: (name, data if name.endswith(".json") else change(data))


def other_about(name, data):
    return name, data if name.endswith(".kv") else data.replace(b"f16", b"q8_0")


def other_build(name, data):
    """Claim another build: then the folder is not what it says."""
    return name, data if name.endswith(".kv") else data.replace(b'"patches"', b'"patched"')


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (segments(lambda data: flipped(data, len(data) - 1)), "contents were changed"),
        (segments(lambda data: flipped(data, 100)), "beginning was changed"),
        (segments(lambda data: data[:-1]), "has not the size"),
        (segments(lambda data: b""), "ends too soon"),
        (lambda n, d: (n.replace("00000256-", "00000255-"), d), "about something else"),
        (lambda n, d: (n, b"{}" if n.endswith("json") else d), "about.json is missing"),
        (other_about, "with something else than about.json says"),
        (other_build, "with something else than about.json says"),
    ],
)
def test_what_was_changed_is_refused(capsys, warm, change, said):
    archive, other = warm.parent / "all.tar", warm.parent / "other"
    run(capsys, "cache", "export", archive, "--cache-dir", warm)
    changed = repacked(archive, change)
    status, found, _ = run(capsys, "cache", "import", changed, "--cache-dir", other, "--json")
    assert status == 1
    assert any(said in one["why"] for one in found["refused"])
    # what is behind a file that was refused is of no use
    verified = run(capsys, "cache", "verify", "--cache-dir", other, "--json")
    assert verified[0] == 0
    assert count(verified[1], "files") == found["files"]
    assert said in run(capsys, "cache", "import", changed, "--cache-dir", other)[1].replace(
        "\n", " "
    )


def test_what_another_build_computed_is_refused(capsys, warm, monkeypatch):
    # as another build would have named it: the description and the folder agree
    import hashlib
    import struct

    def text(data):
        return struct.pack("<Q", len(data)) + data

    (shelf, *_) = [path for path in warm.iterdir() if path.is_dir()]
    about = json.loads((shelf / "about.json").read_text())
    about["llama.cpp"] = "another"
    described = {k: v for k, v in about.items() if k not in ("name", "namespace")}
    print_ = hashlib.sha256(
        text(json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode())
    ).digest()
    name = hashlib.sha256(print_ + text(about["namespace"].encode())).hexdigest()
    other = warm.parent / "built"
    (other / name).mkdir(parents=True, mode=0o700)
    other.chmod(0o700)
    (other / name / "about.json").write_text(json.dumps(about))
    shutil.copy(next(shelf.glob("00000256-*.kv")), other / name)
    with tarfile.open("built.tar", "w") as tar:
        for path in (other / name).iterdir():
            tar.add(path, arcname=f"{name}/{path.name}")
    status, found, _ = run(
        capsys, "cache", "import", "built.tar", "--cache-dir", warm.parent / "new", "--json"
    )
    assert status == 1
    assert 'its llama.cpp is "another"' in found["refused"][0]["why"]


@pytest.mark.parametrize("name", ["../about.json", "/etc/x", "lock", f"{'a' * 64}/other.txt"])
def test_an_archive_that_is_none_is_refused(capsys, folder, name):
    (folder.parent / "member").write_text("x")
    with tarfile.open("evil.tar", "w") as tar:
        tar.add("member", arcname=name)
    (folder.parent / "no.tar").write_text("no archive")
    for archive in ("evil.tar", "no.tar", "nowhere.tar"):
        status, out, err = run(capsys, "cache", "import", archive, "--cache-dir", folder)
        assert (status, out) == (1, "")
        assert archive in err
    assert not (folder.parent / "about.json").exists()


def test_a_link_in_an_archive_is_refused(capsys, folder):
    member = tarfile.TarInfo(f"{'a' * 64}/about.json")
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open("link.tar", "w") as tar:
        tar.addfile(member)
    status, _, err = run(capsys, "cache", "import", "link.tar", "--cache-dir", folder)
    assert status == 1
    assert "as no export" in err


def test_an_archive_larger_than_the_store_is_refused(capsys, warm):
    run(capsys, "cache", "export", "all.tar", "--cache-dir", warm)
    arguments = ["cache", "import", "all.tar", "--cache-dir", warm.parent / "small"]
    status, _, err = run(capsys, *arguments, "--max-size", "1MB")
    assert status == 1
    assert "larger than the store may be" in err


def test_a_damaged_file_is_not_packed(capsys, warm):
    file = min(warm.glob("*/*.kv"))
    file.write_bytes(file.read_bytes()[:-1])
    found = run(capsys, "cache", "export", "all.tar", "--cache-dir", warm, "--json")[1]
    assert found["left_out"] == [f"{file.parent.name}/{file.name}"]


def test_doctor_says_what_a_store_holds(capsys, warm, monkeypatch):
    monkeypatch.delenv("KVFORK_CACHE_DIR", raising=False)
    assert run(capsys, "doctor", "--json")[1]["store"] is None
    assert "store:    none" in run(capsys, "doctor")[1]
    listed = run(capsys, "cache", "list", "--cache-dir", warm, "--json")[1]
    store = run(capsys, "doctor", "--cache-dir", warm, "--json")[1]["store"]
    assert (store["tokens"], store["bytes"]) == (count(listed), listed["bytes"])
    monkeypatch.setenv("KVFORK_CACHE_DIR", str(warm))
    assert f"{store['tokens']:,} tokens in {store['files']:,} files" in run(capsys, "doctor")[1]
    monkeypatch.setenv("KVFORK_CACHE_DIR", str(warm / "nowhere"))
    status, out, _ = run(capsys, "doctor")
    assert status == 0
    assert "cannot be read" in out


def test_a_model_is_known_by_its_contents_not_by_its_name(capsys, warm, text):
    other = warm.parent / "renamed.gguf"
    shutil.copy(smollm2_path(), other)
    messages = [SystemMessage(f"three {text}"), HumanMessage("Who?")]
    assert restored(warm, messages, namespace="b", model_path=other)[0] > 500


def test_measurements_leave_the_store_alone(capsys, folder, monkeypatch):
    monkeypatch.setenv("KVFORK_CACHE_DIR", str(folder))
    sizes = ["--prefix", "100", "--branches", "2", "--max-tokens", "2", "--rounds", "1"]
    assert run(capsys, "bench", *sizes)[0] == 0
    assert not folder.exists()
