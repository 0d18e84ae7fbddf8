"""One option followed through everything that shows or takes it, to the one place that defines it."""

import dataclasses
from types import SimpleNamespace

import pytest
import reference
from httpx import URL

from enhance_ray import EnhanceOptions, cli
from enhance_ray.cluster.bulk import command
from enhance_ray.cluster.bulk.settings import BulkConfig
from enhance_ray.cluster.serve import reading
from enhance_ray.cluster.serve.refusals import RequestError
from enhance_ray.cluster.serve.routes import create_api
from enhance_ray.cluster.serve.settings import ServeConfig
from enhance_ray.errors import ConfigError
from enhance_ray.settings import messages, trees
from enhance_ray.settings.options import Output

NAME = "loudness"
FIELD = next(field for field in dataclasses.fields(Output) if field.name == NAME)
TEXT, DEFAULT = FIELD.metadata["description"], FIELD.default
WANTED = messages.wanted(messages.hints(Output)[NAME])


def test_it_is_inherited_and_not_written_again():
    assert NAME not in vars(EnhanceOptions).get("__annotations__", ())
    assert getattr(EnhanceOptions(), NAME) == DEFAULT
    assert WANTED == "a number from -70 to 0, or keep"


@pytest.mark.parametrize("words", [["enhance"], ["denoise"], ["watch"], ["bulk"]])
def test_command_lines_show_its_text_range_and_default(words, capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"]) if words == ["bulk"] else cli.main([*words, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert f"--{NAME} X|keep" in shown
    assert f"{TEXT} (from -70 to 0; default: {DEFAULT})" in shown


def test_yaml_takes_it_in_its_range(tmp_path):
    path = tmp_path / "bulk.yaml"
    path.write_text(f"input: in\noutput: out\noptions: {{{NAME}: -16}}\n")
    assert getattr(trees.load(BulkConfig, path).options, NAME) == -16.0
    with pytest.raises(ConfigError) as caught:
        trees.load(BulkConfig, path, [f"options.{NAME}=1"])
    assert str(caught.value) == f"{path}: options: {NAME}: expected {WANTED}, got 1"


def test_the_endpoint_describes_and_checks_it():
    api = create_api(SimpleNamespace(settings=ServeConfig())).openapi()
    for mode in ("denoise", "enhance"):
        described = {each["name"]: each for each in api["paths"][f"/v1/{mode}"]["post"]["parameters"]}
        assert described[NAME]["description"] == TEXT
        assert described[NAME]["schema"] == {
            "anyOf": [
                {"type": "number", "minimum": -70, "maximum": 0},
                {"const": DEFAULT, "type": "string"},
            ],
            "default": DEFAULT,
        }
        assert described.keys() == {field.name for field in dataclasses.fields(EnhanceOptions)} - {"mode"}
    query = URL(f"http://here/?{NAME}=5").params
    with pytest.raises(RequestError) as caught:
        reading.options_of(query, "denoise", ServeConfig())
    assert caught.value.reason == f"options: {NAME}: expected {WANTED}, got 5"


def test_the_site_has_it_as_the_code_has():
    page = reference.pages()["reference/settings/recording.md"]
    assert f"`{NAME}` <small>number from -70 to 0 or `{DEFAULT}`, default `{DEFAULT}`</small>" in page
    assert f"{TEXT[0].upper()}{TEXT[1:]}" in page
