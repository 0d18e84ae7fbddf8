"""How good systems are: what they make of degraded speech, against the clean.

    settings    what an evaluation is told: pairs, systems, metrics, page
    pairs       two folders of files, or examples made from a corpus
    facts       what is measured of a pair: SNR, clarity, bandwidth
    systems     the input, models with settings, folders of files made elsewhere
    scoring     a row for each pair and system, in one process or several
    tables      means, intervals and differences of rows
    page        all of it as HTML, with `charts` and `examples`

    settings = resolve(EvaluateConfig(clean="test/clean", noisy="test/noisy"))
    outcomes = list(run(settings, plan(settings)))

Everything is compared on the same pairs, so that differences are of pairs, too.
"""

from enhance_ray.evaluation.pairs import Item, SoundPair, make, plan
from enhance_ray.evaluation.scoring import Row, Scored, Scorer, run, scorer, workplace
from enhance_ray.evaluation.settings import Condition, EvaluateConfig, Mode, PageConfig, SystemConfig
from enhance_ray.evaluation.systems import resolve
from enhance_ray.evaluation.tables import means, save, table

__all__ = [
    "Condition",
    "EvaluateConfig",
    "Item",
    "Mode",
    "PageConfig",
    "Row",
    "Scored",
    "Scorer",
    "SoundPair",
    "SystemConfig",
    "make",
    "means",
    "plan",
    "resolve",
    "run",
    "save",
    "scorer",
    "table",
    "workplace",
]
