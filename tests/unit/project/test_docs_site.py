"""The documentation builds without a warning, its links lead somewhere, and it fetches nothing.

`mkdocs build --strict` checks the links between its own Markdown pages. These tests also check the
anchors that plugins generate, and Markdown files that are no pages.
"""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from langchain_core.language_models import BaseChatModel

from langgraph_kvfork import ChatKVFork
from langgraph_kvfork import __all__ as public_names

ROOT = Path(__file__).parents[3]
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
MARKDOWN_LINK = re.compile(r"\]\(([^()\s]+)\)")


class Page(HTMLParser):
    """What a page links to, what it loads, and where it can be linked to."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loaded, self.ids = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids |= {attributes[name] for name in ("id", "name") if attributes.get(name)}
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if tag == "link" and attributes.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(attributes["href"])
        if attributes.get("src"):
            self.loaded.append(attributes["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    return {
        path.resolve(): Page(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html")
    }


def broken(path, link, ids):
    """Return what is wrong with a relative link in a file; None if it leads somewhere.

    `ids` returns where in a file one can link to.
    """
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None  # somebody else's
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.exists():
        return f"{path}: {link}: no such file"
    if parts.fragment and unquote(parts.fragment) not in ids(target):
        return f"{path}: {link}: no such place in it"
    return None


def test_every_link_and_anchor_of_the_site_leads_somewhere(site):
    # what a server shows for any address that is wrong has links from the root
    pages = {path: page for path, page in site.items() if path.name != "404.html"}
    assert len(pages) > 15
    found = [
        broken(path, link, lambda target: site[target].ids)
        for path, page in pages.items()
        for link in [*page.links, *page.loaded]
    ]
    assert len(found) > 500
    assert [problem for problem in found if problem] == []


def test_viewing_a_page_fetches_nothing_from_elsewhere(site):
    for path, page in site.items():
        assert [url for url in page.loaded if urlsplit(url).netloc] == [], path


def test_the_reference_has_every_public_name(site):
    ids = set().union(*(page.ids for page in site.values()))
    # SharedPrefix needs an extra, so it is no part of `from langgraph_kvfork import *`
    missing = {f"langgraph_kvfork.{name}" for name in (*public_names, "SharedPrefix")} - ids
    errors = {name for name in missing if f"{name.replace('.', '.errors.', 1)}" in ids}
    assert missing == errors


def markdown_files():
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / line for line in listed.splitlines()]


def headings(path):
    """Return a Markdown file's anchors, as code hosts make them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    lines = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line).strip().lower().replace(" ", "-") for line in lines}


def test_every_relative_link_of_every_markdown_file_leads_somewhere():
    files = markdown_files()
    assert {"README.md", "CHANGELOG.md"} <= {path.name for path in files}
    links = [
        (path, link)
        for path in files
        for link in MARKDOWN_LINK.findall(CODE.sub("", path.read_text(encoding="utf-8")))
    ]
    assert len(links) > 20
    found = [broken(path, link, headings) for path, link in links]
    assert [problem for problem in found if problem] == []


def test_the_reference_has_all_arguments_of_the_chat_model(site):
    (page,) = [
        page
        for path, page in site.items()
        if path.name == "chat-model.html" and path.parent.name == "reference"
    ]
    own = set(ChatKVFork.model_fields) - set(BaseChatModel.model_fields)
    methods = {"from_pretrained", "load", "aload", "close", "aclose", "prefill", "aprefill"}
    names = {f"langgraph_kvfork.ChatKVFork.{name}" for name in own | methods}
    assert names <= page.ids
