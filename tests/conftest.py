"""What all tests share."""

import os

import pytest

# Before torch is imported. One number of threads gives one order of summation. Beside another worker of
# pytest-xdist it is one thread: OpenMP's threads wait by spinning, and those of two processes on two cores
# would mostly wait for each other.
IS_XDIST_WORKER = "PYTEST_XDIST_WORKER" in os.environ
os.environ.setdefault("OMP_NUM_THREADS", "1" if IS_XDIST_WORKER else "2")


# First, because pytest-xdist reads the marks in the same hook.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under `pytest -n`: a file's tests stay on one worker, and all that need the cluster on the same one."""
    clustered = {
        item.path for item in items if {"ray_cluster", "s3"} & set(getattr(item, "fixturenames", ()))
    }
    for item in items:
        for drill in item.iter_markers("drill"):
            item.user_properties.extend(("killed", what) for what in drill.args)
        group = "cluster" if item.path in clustered else "/".join(item.path.parts[-2:])
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node, ids: list[str]) -> None:
    """Stop where groups have no effect: each worker would start a Ray cluster and pay for every fixture.

    pytest-xdist writes a test's group into its ID, in an attribute that pytest 9.2 no longer reads.
    """
    ungrouped = [name for name in ids if "@" not in name.rpartition("]")[2]]
    if node.config.getoption("dist") == "loadgroup" and ungrouped:
        pytest.exit(
            f"pytest {pytest.__version__} and pytest-xdist do not keep groups of tests together (the ID "
            f"{ungrouped[0]} names no group): install the versions of constraints.txt",
            returncode=4,
        )


@pytest.fixture
def tally(request: pytest.FixtureRequest):
    """Notes what a drill cost: ``tally(lost=, doubled=, torn=)`` for the table, checked to be nothing at all.

    ``lost`` counts what was to be there and is not, ``doubled`` what is there twice, ``torn`` what is there
    and is not whole or not right: files of a bulk job, steps of a training, answers of an endpoint.
    """

    def note(**counts: int) -> None:
        request.node.user_properties.append(("drill", counts))
        assert not any(counts.values()), counts

    return note


def pytest_terminal_summary(terminalreporter) -> None:
    """After drills, a table of them."""
    rows = []
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.getreports(outcome):
            if not isinstance(report, pytest.TestReport) or "drill" not in report.keywords:
                continue  # what could not be collected, or is no drill
            if report.when != "call" and outcome == "passed":
                continue
            found = dict(report.user_properties)
            counts = [str(found.get("drill", {}).get(name, "")) for name in ("lost", "doubled", "torn")]
            name = report.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
            rows.append([name, found.get("killed", ""), *counts, f"{report.duration:.0f}", outcome])
    if rows:
        rows.insert(0, ["drill", "killed or cut off", "lost", "doubled", "torn", "seconds", "outcome"])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        terminalreporter.section("drills")
        for row in rows:
            terminalreporter.line("  ".join(map(str.ljust, row, widths)).rstrip())
