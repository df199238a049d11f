"""The site that `make docs` builds: the pages as they are, and an API reference.

The reference is made from the docstrings. Each room of the library is a page, written
into docs/api, and each module of the room is a section of it.
"""

import importlib
import pkgutil
import re
import shutil
from pathlib import Path

from sphinx.ext.napoleon import Config, GoogleDocstring

import reprojax

project, root_doc, html_title = "reprojax", "README", "reprojax"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
include_patterns = ["*.md", "docs/*.md", "docs/api/*.rst"]
exclude_patterns = [".*", "runs", "site"]  # not searched for pages
myst_heading_anchors = 4  # a link to a heading is the same as on a forge
html_theme, html_copy_source, html_show_copyright = "furo", False, False
add_module_names = False
autodoc_member_order = "bysource"
autodoc_default_options = {"no-value": True}
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
maximum_signature_line_length = 120
python_trailing_comma_in_multi_line_signatures = False

API = Path(__file__).parent / "api"
PAGES = """tour your_images your_model image_text language instruction prompts
black_boxes parallel authors taxonomy map principles results reliability"""
CONTENTS = {
    "Pages": [f"docs/{page}" for page in PAGES.split()],
    "API reference": ["docs/api/reprojax", "docs/api/*"],
    "Project": ["BUILD", "CONTRIBUTING", "CHANGELOG"],
}
TYPES = {  # as the source has them: jaxtyping and optax take unions apart
    r"~?jaxlib\._jax\.Array": "Array",
    r"(\S+)\[Array, ('[^']*')\] \| \1\[\S*ndarray, \2\]": r"\1[Array | ndarray, \2]",
    r"Array \| [^\[\]]*\[\S*ArrayTree\] \| [^\[\]]*\[[^\[\]]*ArrayTree\]": "ArrayTree",
    r"<function (\w+)[^>]*>": r"\1",
}
STRESSED = r"(?<!\S)((?:\\\*){1,2})(\w[^*\[\]]*[^*\[\]\s])\1"  # *so*, stars escaped


def stress(match):
    stars = match[1].replace("\\", "")
    return f"{stars}{match[2]}{stars}"


def write_room(name):
    """A page: what the room exports, then its modules, those first that export."""
    room = importlib.import_module(name)
    title = name.removeprefix("reprojax.")
    lines = [title, "=" * len(title), f"\n.. automodule:: {name}\n"]
    homes = {}
    for part in getattr(room, "__all__", ()):
        homes[part] = getattr(getattr(room, part), "__module__", name)
    if homes:
        links = [f":py:obj:`{part} <{home}.{part}>`" for part, home in homes.items()]
        lines.append(f"``from {name} import`` {', '.join(links)}")
    paths = room.__path__ if room is not reprojax else []
    modules = pkgutil.walk_packages(paths, f"{name}.")
    for module in sorted(modules, key=lambda m: m.name not in homes.values()):
        title = module.name.removeprefix("reprojax.")
        lines += ["", title, "-" * len(title), f"\n.. automodule:: {module.name}"]
        if not module.ispkg:  # a package has what its modules define
            lines.append("   :members:")
    (API / f"{name.removeprefix('reprojax.')}.rst").write_text("\n".join(lines) + "\n")


shutil.rmtree(API, ignore_errors=True)
API.mkdir()
write_room("reprojax")
for found in pkgutil.iter_modules(reprojax.__path__, "reprojax."):
    if found.ispkg:
        write_room(found.name)


def add_contents(app, page, source):
    """The table of contents, which README.md has on the site alone."""
    options = "\n".join([":hidden:", ":glob:", ":titlesonly:"])
    for title, pages in CONTENTS.items() if page == root_doc else ():
        lines = ["```{toctree}", options, f":caption: {title}", "", *pages, "```"]
        source[0] += "\n" + "\n".join(lines) + "\n"


def read_docstring(app, what, name, obj, options, lines):
    """A docstring is plain text: what is markup to Sphinx is escaped."""
    if lines[0].startswith("Alias for field number"):  # NamedTuple's own
        return lines.clear()
    blocks = re.split(r"\n\s*\n", "\n".join(lines))
    for i, block in enumerate(blocks):
        if block and all(line.startswith("    ") for line in block.splitlines()):
            blocks[i] = f"::\n\n{block}"  # a table, or a command
        elif not block.startswith(">>>"):
            parts = block.split("`")  # the odd ones are code
            parts[::2] = [re.sub(r"([*|\\]|_\b)", r"\\\1", part) for part in parts[::2]]
            parts[::2] = [re.sub(STRESSED, stress, part) for part in parts[::2]]
            paper = r"`arXiv \1 <https://arxiv.org/abs/\1>`__"
            parts[::2] = [re.sub(r"arXiv ([\d.]+\d)", paper, p) for p in parts[::2]]
            parts[1::2] = [f"``{part}``" for part in parts[1::2]]
            blocks[i] = "".join(parts)
    lines[:] = "\n\n".join(blocks).splitlines()
    if what not in ("attribute", "data"):  # whose colons would be taken for types
        google = GoogleDocstring(lines, Config(), app, what, name, obj, options)
        lines[:] = google.lines()


def read_signature(app, what, name, obj, options, signature, result):
    if signature == "(*args, **kwargs)":  # of a protocol, whose docstring has its own
        return "", ""
    if signature:
        for long, short in TYPES.items():
            signature = re.sub(long, short, signature)
            result = result and re.sub(long, short, result)
        return signature, result


def drop_contents(app, page, template, context, doctree):
    """Pages of source go without the table of contents: it takes most of the time."""
    if page.startswith("_modules"):
        context.pop("toctree", None)


def add_index(app, failure):
    page = '<meta http-equiv="refresh" content="0; url=README.html">\n'
    (Path(app.outdir) / "index.html").write_text(page)


def setup(app):
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-docstring", read_docstring)
    app.connect("autodoc-process-signature", read_signature)
    app.connect("html-page-context", drop_contents, priority=400)  # before the theme
    app.connect("build-finished", add_index)
