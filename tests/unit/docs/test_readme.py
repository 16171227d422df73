"""README and the pages of docs/: their shape, links, listings, and that the commands and settings they name exist."""

from __future__ import annotations

import doctest
import itertools
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import BaseModel
from qafel_analysis.commands.app import app as analysis

from qafel_mpi import config, experiments
from qafel_mpi.commands.app import app as product
from tests import documents
from tests.documents import Block, Page, pages
from tests.support import ROOT

PAGES = pages()
README = Page(ROOT / "README.md")
BLOCKS = [block for page in PAGES for block in page.blocks]
EXAMPLES = ROOT / "docs/examples"
SECTIONS = [
    "qafel_mpi",
    "Two commands",
    "What you get",
    "Your own model and data",
    "The trace in ten lines of Python",
    "Commands",
    "The protocol",
    "Results",
    "Limits",
    "How to cite",
]


def name(page: Page) -> str:
    return str(page.path.relative_to(ROOT))


def label(block: Block) -> str:
    return f"{block.page.name}: {block.text.splitlines()[0] if block.text else ''}"


# --- README -----------------------------------------------------------------------------------------


def test_readme_is_short_and_its_sections_stand_in_their_order() -> None:
    assert len(README.text.splitlines()) <= 200
    assert README.headings == SECTIONS


def test_readme_says_its_largest_limit_before_its_first_section() -> None:
    assert "nothing has run on a GPU" in " ".join(README.text.split("\n## ")[0].split())


def test_the_protocol_of_the_readme_is_that_of_its_page() -> None:
    (box,) = [block.text for block in README.blocks if block.language == "text"]
    assert box in (ROOT / "docs/protocol.md").read_text(encoding="utf-8")


def test_results_in_the_readme_are_one_table_of_twelve_rows_at_most() -> None:
    section = README.text.split("\n## Results\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert 1 <= len(rows) - 2 <= 12
    assert "(docs/results.md" in section


# --- links --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_and_headings_that_exist(page: Page) -> None:
    assert [link for link in page.links if (wrong := broken(page, link))] == [], wrong


def broken(page: Page, link: str) -> str:
    path, _, anchor = link.partition("#")
    target = (page.path.parent / path).resolve() if path else page.path
    if not target.exists():
        return f"{target} does not exist"
    if anchor and anchor not in Page(target).anchors:
        return f"{target} has no heading #{anchor}"
    return ""


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    page = Page(tmp_path / "page.md")
    page.path.write_text(
        "# A title, or two\n\n[a](#a-title-or-two) [b](#none) [c](gone.md) [d](https://x.example)\n"
    )
    assert [link for link in page.links if broken(page, link)] == ["#none", "gone.md"]


def test_every_page_is_in_the_index() -> None:
    index = Page(ROOT / "docs/README.md")
    here = {page.path.name for page in PAGES if page.path.parent.name == "docs"} - {"README.md"}
    assert here == {link for link in index.links if "/" not in link and link.endswith(".md")}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_a_page_names_exist(page: Page) -> None:
    """Whole paths in backticks; NAME stands for a file to be written."""
    paths = re.findall(
        r"^((?:qafel_mpi|tests|analysis|docs|jobs|findings|\.ci)/[\w./-]+)(?=$|:)",
        "\n".join(page.inline),
        re.M,
    )
    assert [path for path in paths if "NAME" not in path and not (ROOT / path).exists()] == []


# --- listings and blocks ------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.listing], ids=label)
def test_a_listing_is_the_file_that_it_names(block: Block) -> None:
    file = (ROOT / block.listing).read_text(encoding="utf-8")
    assert block.text.partition("\n")[2].rstrip() == file.rstrip()


def test_every_example_file_is_listed_on_a_page() -> None:
    listed = {block.listing for block in BLOCKS}
    files = [path for path in EXAMPLES.iterdir() if path.is_file()]
    assert {str(path.relative_to(ROOT)) for path in files} <= listed


@pytest.mark.parametrize("block", BLOCKS, ids=label)
def test_a_block_says_what_it_is(block: Block) -> None:
    """sh, python and toml are run or compared; text is shown."""
    assert block.language in ("sh", "python", "toml", "text")
    assert block.language != "toml" or block.listing, "TOML in the pages is a file under docs/examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.name)
def test_an_example_experiment_is_valid(path: Path) -> None:
    config.load(str(path))
    for variant in config.variants_of(str(path)):
        config.load(str(path), variant=variant)


# --- commands -----------------------------------------------------------------------------------------


def without_bodies(command: Any) -> Any:
    """A command that understands its line and then does nothing."""
    command.callback = lambda **arguments: None
    for inner in getattr(command, "commands", {}).values():
        without_bodies(inner)
    return command


PARSERS = {
    "qafel-mpi": without_bodies(typer.main.get_command(product)),
    "qafel-analysis": without_bodies(typer.main.get_command(analysis)),
}
TARGETS = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.M)[0].split()


def understood(words: list[str], folder: Path) -> None:
    """Raises where the program would refuse the line. folder: the working folder, where named files are made."""
    program, *arguments = words
    if program == "make":
        assert {word for word in arguments if "=" not in word} <= set(TARGETS)
        return
    for word in arguments:
        path = folder / word
        if word.endswith((".h5", ".json", ".shards")) and not word.startswith(("-", "/")):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(exist_ok=True) if word.endswith(".shards") else path.touch()
    PARSERS[program].main(args=arguments, prog_name=program, standalone_mode=False)
    if arguments[0] in ("run", "suite"):
        settings = [value for option, value in itertools.pairwise(arguments) if option == "--set"]
        if arguments[1] in experiments.names():
            config.load(arguments[1], settings)
        elif (EXAMPLES / arguments[1]).exists():
            config.load(str(EXAMPLES / arguments[1]), settings)


COMMANDS = [(page, words) for page in PAGES for block in page.blocks for words in block.commands]


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[" ".join(words) for _, words in COMMANDS])
def test_a_command_line_of_a_page_is_understood(page: Page, words: list[str], tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    understood(words, tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "qafel-mpi run digits --sets a=1",
        "qafel-mpi runn digits",
        "qafel-mpi run digits --set uplink.bit=4",
        "make tests",
    ],
)
def test_a_command_line_that_is_wrong_is_seen(line: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((Exception, SystemExit)):
        understood(line.split(), tmp_path)


def subcommands(program: str) -> set[str]:
    """What may stand behind the program's name, such as 'bench codec'."""
    found: set[str] = set()

    def walk(command: Any, before: str) -> None:
        for each, inner in getattr(command, "commands", {}).items():
            found.add((before + " " + each).strip())
            walk(inner, before + " " + each)

    walk(PARSERS[program], "")
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_in_the_text_exist(page: Page) -> None:
    """`qafel-mpi bench check` and the like, as far as the first word that is no command."""
    for code in page.inline:
        program, *rest = code.split()
        if program in PARSERS and rest and re.fullmatch(r"[a-z]+", rest[0]):
            assert rest[0] in subcommands(program), code
        if program == "make" and rest:
            assert rest[0].partition("=")[0] in (*TARGETS, "PYTHON", "QAFEL_MPI"), code


@pytest.mark.parametrize("page", [page for page in PAGES if page.path.name != "CHANGELOG.md"], ids=name)
def test_settings_in_the_text_exist(page: Page) -> None:
    sections = [key for key, field in config.Experiment.model_fields.items() if nested(field.annotation)]
    for code in page.inline:
        key = re.match(rf"({'|'.join(sections)})\.([a-z_.]+)", code)
        if key:
            assert exists(config.Experiment, key[0].rstrip(".").split(".")), code


def nested(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, also where it may be None."""
    for option in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


def exists(model: type[BaseModel], keys: list[str]) -> bool:
    field = model.model_fields.get(keys[0])
    if field is None:
        return False
    inner = nested(field.annotation)
    return len(keys) == 1 or (inner is not None and exists(inner, keys[1:]))


# --- what-if.md, and the files beside the pages --------------------------------------------------------


def test_citation_names_the_version_the_licence_and_both_papers() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    papers = [one["value"] for reference in citation["references"] for one in reference["identifiers"]]
    assert papers == ["arXiv:2308.00263", "arXiv:2410.00242"]


def test_the_changelog_begins_with_the_packages_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    first = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[0]
    assert first == project["version"]


def test_shell_blocks_are_valid_shell() -> None:
    for block in BLOCKS:
        if block.language == "sh":
            done = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True)
            assert done.returncode == 0, f"{label(block)}: {done.stderr}"


def test_the_examples_of_the_tests_own_reader_of_pages_are_right() -> None:
    found = doctest.testmod(documents)
    assert (found.failed, found.attempted > 0) == (0, True)
