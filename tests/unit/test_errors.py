"""Errors cross process borders and say what they mean."""

import inspect
import pickle

import pytest

from enhance_ray import errors
from enhance_ray.errors import EnhanceRayError

EXAMPLES = [
    errors.ConfigError("configs/a.yaml: lr", "expected a number"),
    errors.CheckpointError("model", "config.yaml is missing"),
    errors.AudioError("a.wav", "it has no samples"),
    errors.AudioReadError("a.wav", "it is empty"),
    errors.AudioReadError("a.wav", "it is damaged at 1.0 s", "--partial keeps what could be decoded"),
    errors.ModelFailedError("a.wav"),
    errors.AudioWriteError("b.wav", "it exists"),
    errors.StorageReadError("s3://b/a.wav", "the server does not answer"),
    errors.StorageWriteError("s3://b/b.wav", "the server does not answer"),
    errors.TrainingDivergedError(12, "lower the learning rate"),
]


def test_a_remedy_of_the_command_line_is_said_there_alone():
    error = errors.AudioReadError("a.wav", "it is damaged at 1.0 s", "--partial keeps what could be decoded")
    assert str(error) == ("cannot read a.wav: it is damaged at 1.0 s (--partial keeps what could be decoded)")
    assert error.reason == error.reason_for("a.wav") == "it is damaged at 1.0 s"
    assert error.reason_for("b.wav") == "cannot read a.wav: it is damaged at 1.0 s"


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_every_error_has_an_example_here_and_a_code_of_its_own():
    classes = [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, EnhanceRayError) and value is not EnhanceRayError
    ]
    assert {type(error) for error in EXAMPLES} == set(classes)
    assert len({value.code for value in classes}) == len(classes)
