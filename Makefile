# Every target prepares .venv first; nothing but Python 3.11 to 3.13 and make need be there.
#
#     make demo    restore samples/noisy, score it, write demo_out/report.html
#     make test    all tests but those of
#     make drill   killing workers, drivers and nodes of a cluster, which take minutes
#     make lint    ruff, mypy, import layers
#     make bench   compare with other denoisers: make bench DATA=folder WORK=folder

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/ready
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test drill lint format bench clean

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] < (3, 14) else "enhance_ray needs Python 3.11 to 3.13: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cluster,eval,hub,dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/python benchmarks/demo.py samples demo_out

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

drill: $(STAMP)
	$(BIN)/python -m pytest -m drill -s

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[peers]'
	$(BIN)/python benchmarks/quality.py --data $(DATA) --work $(WORK) --jobs 2

clean:
	rm -rf $(VENV) demo_out
