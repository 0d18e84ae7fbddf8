"""The site's reference has everything that the code reads, whatever its settings are made with."""

import dataclasses
import re
from typing import Annotated

import pydantic
import pytest
import reference

from enhance_ray import cli
from enhance_ray.cluster.bulk.settings import BulkConfig


@pytest.fixture(scope="module")
def pages():
    return reference.pages()


def section(page, heading):
    """The text below a heading, up to the next one of its level."""
    found = re.search(rf"^(#+) {re.escape(heading)} .*?\n(.*?)(?=^\1 |\Z)", page, re.DOTALL | re.MULTILINE)
    assert found is not None, heading
    return found[2]


def test_every_settings_class_of_the_package_is_on_a_page(pages, pytestconfig):
    text = "\n".join(pages.values())
    sources = [path.read_text() for path in (pytestconfig.rootpath / "enhance_ray").rglob("*.py")]
    classes = {
        name for source in sources for name in re.findall(r"^class (\w+Config)\b", source, re.MULTILINE)
    }
    assert len(classes) > 20
    assert {name for name in classes if f"\n## {name} {{" not in text} == set()


def test_every_key_has_its_type_its_default_and_what_the_code_says_about_it(pages):
    page = section(pages["reference/settings/bulk.md"], "BulkConfig")
    for field in dataclasses.fields(BulkConfig):
        assert f"\n`{field.name}` <small>" in page
    assert "`lease_seconds` <small>number, default `120.0`</small>\n:   An actor that is not heard of" in page
    assert "`options` <small>group [EnhanceOptions](recording.md#enhanceoptions)" in page


def test_every_command_and_option_is_on_the_page(pages, capsys):
    def help_of(*command):
        with pytest.raises(SystemExit):
            cli.main([*command, "--help"])
        return capsys.readouterr().out

    page = pages["reference/cli.md"]
    commands = set(re.findall(r"^    ([\w-]+)(?:  |$)", help_of(), re.MULTILINE))
    assert {"denoise", "enhance", "train", "corpus", "import-resemble"} <= commands
    for command in commands - {"corpus"}:
        shown = section(page, f"enhance-ray {command}")
        options = set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", help_of(command), re.MULTILINE))
        for option in options - {"--help"}:
            assert f"`{option}`" in shown
    for program in ("enhance-ray corpus pack", "resemble-enhance", "python jobs/enhance_bulk.py"):
        assert "**Arguments**" in section(page, program)


def test_the_http_page_says_what_openapi_json_does(pages):
    page = pages["reference/http.md"]
    assert "`loudness` <small>number or `keep`, in the query</small>" in section(page, "POST /v1/enhance")
    assert "Those of [POST /v1/enhance](#post-v1-enhance)" in section(page, "POST /v1/denoise")
    assert "`429`: too many requests of this client" in section(page, "POST /v1/denoise")
    assert "A name of your own for the job" in section(page, "Order")  # a text below a field


def test_explanations_are_found_wherever_settings_have_them():
    @dataclasses.dataclass
    class Plain:
        first: int = dataclasses.field(default=1, metadata={"help": "in the metadata"})
        second: int = 2
        """below the field"""

    @pydantic.dataclasses.dataclass
    class Checked:
        first: int = pydantic.Field(default=1, description="in the metadata", ge=0)
        second: Annotated[int, pydantic.Field(description="below the field")] = 2

    for schema in (Plain, Checked):
        first, second = dataclasses.fields(schema)
        assert reference.explanation(schema, first) == "in the metadata"
        assert reference.explanation(schema, second) == "below the field"
        assert [reference._default(field) for field in (first, second)] == ["`1`", "`2`"]
