"""What mkdocs does beyond the files of `docs/`: this is the hook that `mkdocs.yml` names.

- The README is the start page, and the changelog, CONTRIBUTING and SECURITY are pages.
- A file of the repository that a page links to (a model's card, a table of results, a configuration) comes
  with the site below `repository/`, so that no link needs to know where the repository is published.
- `tools/reference.py` generates the reference, and `tools/listening.py` fills the page to listen.
- What stands in `<!-- site: ... -->` is shown on the site alone: it may link to pages that are generated.

A link that leads nowhere stops the build, which `make lint` runs.
"""

from __future__ import annotations

import os
import posixpath
import re
import warnings
from pathlib import Path

import listening
import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LISTEN = ROOT / "build" / "listen"
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Files of the repository that are pages of the site, and under which names."""
_SITE_ONLY = re.compile(r"<!-- site: (.*?) -->", re.DOTALL)
_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:)([^)\s#]+)(#[^)\s]*)?(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lies elsewhere, or nowhere yet."""
    sources = {file.src_uri: ROOT / "docs" / file.src_uri for file in files.documentation_pages()}
    for source, name in PAGES.items():
        _add(files, config, name, (ROOT / source).read_text(encoding="utf-8"))
        sources[name] = ROOT / source
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's, of what it imports
        generated = reference.pages()
    for name, text in generated.items():
        _add(files, config, name, text)
    for path in sorted(LISTEN.glob("*.*")):
        if path.suffix in {".webm", ".webp"}:
            files.append(File.generated(config, f"listen/{path.name}", abs_src_path=str(path)))
    # What pages link to may link further.
    while sources:
        _, source = sources.popitem()
        for target in _outside(source):
            name = _site_name(target)
            if files.get_file_from_path(name) is None:
                # Also what mkdocs leaves out by itself: names that begin with a dot.
                included = InclusionLevel.INCLUDED
                source_path = str(ROOT / target)
                files.append(File.generated(config, name, abs_src_path=source_path, inclusion=included))
                if target.endswith(".md"):
                    sources[name] = ROOT / target
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links into the repository into links on the site, and fill the page to listen."""
    if page.file.src_uri in {"index.md", "listen.md"}:
        page.meta["hide"] = ["navigation"]  # they have no neighbours
    if page.file.src_uri == "listen.md":
        if missing := [name for name in listening.KINDS if not (LISTEN / f"{name}.json").exists()]:
            raise PluginError(f"recordings of {', '.join(missing)} are not made yet: run `make docs`")
        sections = "\n".join(listening.markdown(name, LISTEN) for name in listening.KINDS)
        markdown = markdown.replace("<!-- recordings -->", sections)
    origin = _origin(page.file.src_uri)
    if origin is None:
        return markdown

    def on_site(link: re.Match[str]) -> str:
        name = _site_name(_below_root(origin, link[1]))
        return posixpath.relpath(name, posixpath.dirname(page.file.src_uri) or ".") + (link[2] or "")

    parts = _SITE_ONLY.split(markdown)  # every second one is for the site, and has its links
    parts[::2] = [_LINK.sub(on_site, part) for part in parts[::2]]
    return "".join(parts)


def _add(files: Files, config: MkDocsConfig, name: str, text: str) -> None:
    files.append(File.generated(config, name, content=text))


def _origin(name: str) -> str | None:
    """Where in the repository the page ``name`` of the site comes from; None if it is generated."""
    if name.startswith("reference/"):
        return None
    by_page = {page: source for source, page in PAGES.items()}
    return by_page.get(name) or (
        name.removeprefix("repository/") if "repository/" in name else f"docs/{name}"
    )


def _site_name(path: str) -> str:
    """What a file of the repository is called on the site."""
    if path in PAGES:
        return PAGES[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else f"repository/{path}"


def _below_root(source: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def _outside(source: Path) -> list[str]:
    """Files of the repository, outside of `docs/` and not among `PAGES`, that ``source`` links to."""
    origin = os.fspath(source.relative_to(ROOT))
    targets = (_below_root(origin, link[1]) for link in _LINK.finditer(source.read_text(encoding="utf-8")))
    return [
        target
        for target in targets
        if target not in PAGES and not target.startswith(("docs/", "..")) and (ROOT / target).is_file()
    ]
