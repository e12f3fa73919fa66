"""What the project's metadata promises to those who install, package or browse it."""

import importlib.metadata
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import langgraph_kvfork

ROOT = Path(__file__).parents[3]
NOT_SHIPPED = (".ci/", ".github/")


def tracked_files():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no git checkout, but a source distribution")
    return listed.stdout.splitlines()


def test_a_source_distribution_holds_all_that_its_tests_need(tmp_path):
    expected = {name for name in tracked_files() if not name.startswith(NOT_SHIPPED)}
    program = (
        "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path], cwd=ROOT, check=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        shipped = {name.partition("/")[2] for name in tar.getnames()}
    # the folder that is a link is shipped as a folder
    assert expected - shipped == {"docs/results"}
    assert "docs/results/quick.md" in shipped
    assert [name for name in shipped if name.startswith(("build/", ".venv/"))] == []


def test_an_index_shows_a_readme_whose_links_lead_somewhere():
    metadata = importlib.metadata.metadata("langgraph-kvfork")
    readme = metadata["Description"] or metadata.get_payload()
    links = re.findall(r"\]\(([^)]+)\)", readme)
    assert len(links) > 10
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def test_the_package_knows_its_version():
    assert langgraph_kvfork.__version__ == importlib.metadata.version("langgraph-kvfork")


def test_the_command_is_installed():
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="kvfork")
    assert callable(command.load())
