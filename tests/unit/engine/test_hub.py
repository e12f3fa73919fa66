"""Files from the hub's cache, without a network: huggingface_hub's code on a folder of its form."""

import os
from pathlib import Path

import pytest

huggingface_hub = pytest.importorskip("huggingface_hub")

from langgraph_kvfork import InvalidRequestError  # noqa: E402
from langgraph_kvfork.engine.hub import download  # noqa: E402

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAMES = [
    "README.md",
    "model-q4_k_m.gguf",
    "model-q8_0.gguf",
    "big-00001-of-00003.gguf",
    "big-00002-of-00003.gguf",
    "big-00003-of-00003.gguf",
]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The hub's cache with one repository, as a download leaves it: links to blobs."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--owner--repo"
    snapshot = repository / "snapshots" / COMMIT
    (repository / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    for revision in ("main", "v1"):
        (repository / "refs" / revision).write_text(COMMIT)
    for i, name in enumerate(NAMES):
        (repository / "blobs" / str(i)).write_text(name)
        os.symlink(repository / "blobs" / str(i), snapshot / name)
    return tmp_path


@pytest.mark.parametrize("pattern", ["*q4_k_m.gguf", "model-q4_k_m.gguf"])
@pytest.mark.parametrize("revision", [None, "v1"])
def test_a_cached_file_needs_no_network(cache, pattern, revision):
    path = Path(download("owner/repo", pattern, revision=revision, hub_cache_dir=cache))
    assert path.name == "model-q4_k_m.gguf"
    assert path.read_text() == "model-q4_k_m.gguf"


def test_the_first_part_brings_the_others(cache, monkeypatch):
    asked = []
    whole = huggingface_hub.snapshot_download

    def recorded(**arguments):
        asked.append(arguments.get("allow_patterns"))
        return whole(**arguments)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", recorded)
    path = download("owner/repo", "big-00001*", additional_files=["README.md"], hub_cache_dir=cache)
    assert Path(path).name == NAMES[3]
    assert asked[-1] == [NAMES[3], "README.md", NAMES[4], NAMES[5]]


def test_a_pattern_has_to_match_one_file(cache):
    with pytest.raises(InvalidRequestError, match=r"matches 2 files in owner/repo: pass one of"):
        download("owner/repo", "model*", hub_cache_dir=cache)
    with pytest.raises(InvalidRequestError, match=r"matches no file .* model-q8_0\.gguf"):
        download("owner/repo", "*q5*", hub_cache_dir=cache)


@pytest.mark.parametrize("where", [{"revision": "v2"}, {"hub_cache_dir": "nowhere"}])
def test_what_is_not_cached_is_the_hubs_error(cache, tmp_path, where):
    with pytest.raises(huggingface_hub.errors.LocalEntryNotFoundError):
        download("owner/repo", "*q4*", **{"hub_cache_dir": cache, **where})
