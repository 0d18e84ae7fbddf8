"""What a process has imported before it has work for it: every command and every worker waits for that.

The lists hold names of modules and no times, which depend on the machine.
"""

import json
import subprocess
import sys
import textwrap

import numpy as np
import soundfile

RATE = 44_100

FOR_SOME_TASK = {
    *("scipy.signal", "scipy.stats", "scipy.optimize", "scipy.ndimage", "scipy.fft"),
    *("matplotlib", "librosa", "numba", "pyroomacoustics", "tensorboard", "onnxruntime", "huggingface_hub"),
    *("torch._dynamo", "torch._inductor", "sympy", "torchaudio"),
}
"""What is imported by the functions that use it."""


def modules_at_marks(code, *arguments):
    """By name, all modules that a new process has imported when its ``code`` calls ``mark(name)``."""
    program = f"""
import contextlib, io, json, sys
marks = {{}}
def mark(name):
    marks[name] = list(sys.modules)
with contextlib.redirect_stdout(io.StringIO()):
{textwrap.indent(textwrap.dedent(code), "    ")}
print(json.dumps(marks))
"""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    process = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)
    assert process.returncode == 0, process.stderr
    return {name: set(modules) for name, modules in json.loads(process.stdout).items()}


def test_help_and_the_ledger_of_bulk_jobs_import_neither_torch_nor_numpy_nor_a_codec():
    marks = modules_at_marks("""
        import enhance_ray
        mark("package")

        from enhance_ray import cli
        def ask(words, parser):
            with contextlib.suppress(SystemExit):
                cli.main([*words, "--help"])
            for action in parser._subparsers._group_actions if parser._subparsers else ():
                for name, child in action.choices.items():
                    ask([*words, name], child)
            mark(" ".join(["help of", *words]))
        ask([], cli._parser())

        import enhance_ray.cluster.bulk.ledger
        mark("ledger")
    """)
    assert {"help of", "help of denoise", "help of corpus pack"} <= set(marks)
    heavy = {"torch", "numpy", "scipy", "av", "soundfile", "fsspec", "pyarrow", "pandas", "ray", "rich"}
    heavy.add("pydantic")
    for name, modules in marks.items():
        assert not modules & (heavy | FOR_SOME_TASK), name


def test_denoising_a_file_imports_nothing_that_it_does_not_use(model, tmp_path):
    soundfile.write(tmp_path / "in.wav", 0.1 * np.random.default_rng(0).standard_normal(RATE), RATE)
    code = """
        from enhance_ray import cli
        assert cli.main(["denoise", *sys.argv[1:]]) == 0
        mark("done")
    """
    marks = modules_at_marks(code, tmp_path / "in.wav", tmp_path / "out.wav", "--model", model)
    assert (tmp_path / "out.wav").exists()
    heavy = {"scipy", "pyarrow", "pandas", "ray", "rich", "aiohttp"}
    assert not marks["done"] & (heavy | FOR_SOME_TASK)


def test_processes_of_a_cluster_import_what_their_own_work_needs():
    # One process stands for all, because each takes seconds: what one needs, the next may need, too.
    marks = modules_at_marks("""
        import enhance_ray.cluster.bulk.worker
        mark("bulk actor")
        import enhance_ray.cluster.feed
        mark("data task")
        import enhance_ray.cluster.train
        mark("train worker")
        import enhance_ray.cluster.evaluate
        mark("evaluation actor")
        import enhance_ray.cluster.serve
        mark("replica")
    """)
    absent = {
        "bulk actor": {"scipy", "pandas", "ray.data", "ray.train", "ray.serve", "fastapi"},
        "data task": {"ray.train", "ray.serve", "fastapi"},
        "train worker": {"ray.serve", "fastapi"},
        "evaluation actor": {"ray.serve", "fastapi"},
        "replica": set(),
    }
    assert set(marks) == set(absent)
    for name, modules in marks.items():
        assert not modules & (absent[name] | {"ray.tune"} | FOR_SOME_TASK), name
