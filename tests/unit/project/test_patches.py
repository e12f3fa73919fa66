"""The patch series keeps its rules, and what breaks them is refused."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import check_patches
import llama_cpp_source
import pytest
from llama_cpp_source import Upstream

from langgraph_kvfork.native import library

ROOT = Path(__file__).parents[3]

UPSTREAM_FILE = "".join(f"line {i}\n" for i in range(1, 11))

PATCH = """\
From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001
From: Somebody <somebody@example.org>
Date: Thu, 1 Jan 2026 00:00:00 +0000
Subject: [PATCH] memory : say five twice

Because once is not enough.

Upstream: would want a test.
---
 src/a.cpp | 3 ++-
 1 file changed, 2 insertions(+), 1 deletion(-)

diff --git a/src/a.cpp b/src/a.cpp
index 1111111..2222222 100644
--- a/src/a.cpp
+++ b/src/a.cpp
@@ -2,7 +2,8 @@
 line 2
 line 3
 line 4
-line 5
+line five
+line five
 line 6
 line 7
 line 8
diff --git a/src/new.cpp b/src/new.cpp
new file mode 100644
index 0000000..3333333
--- /dev/null
+++ b/src/new.cpp
@@ -0,0 +1,4 @@
+new 1
+new 2
+new 3
+new 4
"""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Make a source distribution whose llama.cpp is one file; the rest must stay out."""
    path = tmp_path / "sdist.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name in ("src/a.cpp", ".git", "../../.git/modules/vendor/llama.cpp/HEAD"):
            member = tarfile.TarInfo(
                os.path.normpath(f"llama_cpp_python-0/vendor/llama.cpp/{name}")
            )
            member.size = len(UPSTREAM_FILE)
            tar.addfile(member, io.BytesIO(UPSTREAM_FILE.encode()))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder with a series of one good patch."""
    folder = tmp_path / "patches"
    folder.mkdir()
    (folder / "0001-five.patch").write_text(PATCH)
    (folder / "series").write_text("# a comment\n0001-five.patch\n")
    write_budget(folder, 3)
    return folder


def write_budget(folder: Path, lines: int) -> None:
    (folder / "upstream.toml").write_text(
        f'[sdist]\nname = "x"\nversion = "0"\nsha256 = "0"\n[budget]\n"0001-five.patch" = {lines}\n'
    )


def rewrite(folder: Path, old: str, new: str) -> None:
    text = PATCH.replace(old, new, 1)
    assert text != PATCH
    (folder / "0001-five.patch").write_text(text)


def test_our_series_keeps_the_rules() -> None:
    assert check_patches.check(llama_cpp_source.PATCHES) == []


def test_a_good_patch_passes(folder: Path, archive: Path) -> None:
    assert check_patches.check(folder, archive) == []


def test_one_line_over_budget_is_refused(folder: Path, archive: Path) -> None:
    write_budget(folder, 2)
    assert check_patches.check(folder, archive) == [
        "0001-five.patch touches 3 upstream lines; its budget is 2"
    ]


def test_gits_signature_does_not_count() -> None:
    assert check_patches.touched_lines(PATCH + "-- \n2.39.2\n\n", set()) == 3


def test_a_file_that_an_earlier_patch_added_is_free(folder: Path) -> None:
    change = PATCH.replace("src/a.cpp", "src/new.cpp")
    ours = {"src/new.cpp"}
    assert check_patches.touched_lines(change, ours) == 0


def test_context_that_only_fuzz_would_match_is_refused(folder: Path, archive: Path) -> None:
    rewrite(folder, " line 2\n", " line two\n")
    (complaint,) = check_patches.check(folder, archive)
    assert complaint.startswith("0001-five.patch does not apply")


def test_a_patch_applies_inside_another_repository(
    folder: Path, archive: Path, tmp_path: Path
) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (tmp_path / ".git" / "objects").mkdir()
    (tmp_path / ".git" / "refs").mkdir()
    tree = tmp_path / "build" / "tree"
    tree.mkdir(parents=True)
    llama_cpp_source.unpack(archive, tree)
    llama_cpp_source.apply(folder / "0001-five.patch", tree)
    assert "line five\nline five\n" in (tree / "src" / "a.cpp").read_text()
    assert (tree / "src" / "new.cpp").is_file()
    assert sorted(llama_cpp_source.files(tree)) == ["src/a.cpp", "src/new.cpp"]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("From 0123", "Fr0m 0123", "is not in `git format-patch` form"),
        ("[PATCH] ", "", "is not in `git format-patch` form"),
        ("Because once is not enough.\n", "", "does not say why"),
        ("Upstream: would want a test.", "", "what upstream would need"),
        ("Upstream: would want a test.", "Upstream:", "what upstream would need"),
    ],
)
def test_a_header_that_does_not_explain_is_refused(
    folder: Path, archive: Path, old: str, new: str, complaint: str
) -> None:
    rewrite(folder, old, new)
    (found,) = check_patches.check(folder, archive)
    assert complaint in found


def test_a_patch_outside_the_series_is_refused(folder: Path, archive: Path) -> None:
    (folder / "0002-stray.patch").write_text(PATCH)
    assert check_patches.check(folder, archive) == ["0002-stray.patch is not in the series"]


def test_only_files_that_differ_are_written(
    folder: Path, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp_source, "BUILD", tmp_path / "build")
    tree = tmp_path / "build" / "llama.cpp"
    patches = [folder / "0001-five.patch"]

    def fill(new: Path) -> None:
        llama_cpp_source.unpack(archive, new)
        (new / "same.cpp").write_text("same")

    llama_cpp_source.make_tree(tree, fill, patches, "first")
    same = (tree / "same.cpp").stat().st_mtime_ns
    patched = (tree / "src" / "a.cpp").stat().st_mtime_ns
    assert (tree / "src" / "new.cpp").is_file()

    llama_cpp_source.make_tree(tree, fill, [], "second")
    assert (tree / "same.cpp").stat().st_mtime_ns == same
    assert (tree / "src" / "a.cpp").stat().st_mtime_ns > patched
    assert (tree / "src" / "a.cpp").read_text() == UPSTREAM_FILE
    assert not (tree / "src" / "new.cpp").exists()


def test_a_checkout_of_ones_own_is_never_changed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp_source, "BUILD", tmp_path / "build")
    patches = [folder / "0001-five.patch"]
    checkout = tmp_path / "checkout"
    for name in ("include/llama.h", "src/a.cpp", ".git/HEAD", "build-x/a.o"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(UPSTREAM_FILE)

    tree = llama_cpp_source.own_tree(checkout, patches)
    assert tree == tmp_path / "build" / "llama.cpp"
    assert (tree / "src" / "new.cpp").is_file()
    assert not (tree / ".git").exists()
    assert not (tree / "build-x").exists()
    assert (checkout / "src" / "a.cpp").read_text() == UPSTREAM_FILE
    assert not (checkout / "src" / "new.cpp").exists()

    (checkout / "src" / "a.cpp").write_text("something else\n")
    with pytest.raises(llama_cpp_source.SourceError, match=r"0001-five\.patch does not apply"):
        llama_cpp_source.own_tree(checkout, patches)

    (checkout / "src" / "new.cpp").write_text("")  # as in a checkout where the patch is developed
    assert llama_cpp_source.own_tree(checkout, patches) == checkout


def test_the_bindings_are_of_the_pinned_version() -> None:
    assert library.bindings_version() == Upstream.read().version


def test_only_one_file_names_the_version() -> None:
    listed = ["git", "grep", "-l", "--fixed-strings", Upstream.read().version, "--", "."]
    known = ["upstream.toml", "CHANGELOG.md", "results"]  # and what was measured, which is history
    found = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [p for p in found.splitlines() if not any(name in p for name in known)] == []
