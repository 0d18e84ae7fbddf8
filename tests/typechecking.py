"""How tests check annotated shapes and types: an int will do where a float is asked for, as in PEP 484."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
