# Every target prepares .venv first, with uv where it can be had (tools/prepare.py). Python 3.11 to 3.13, make and a C compiler
# need be there, and nothing else.
#
#     make demo    restore samples/noisy, score it, write demo_out/report.html
#     make test    all tests but those of
#     make drill   killing workers, drivers and nodes of a cluster, which take minutes
#     make soak    a hundred kills in one bulk job, half an hour
#     make docs    the site in build/site, with recordings to listen to; stops at dead links
#     make lint    ruff, mypy, import layers, the lock, and the site's links
#     make lock    constraints.txt anew from pyproject.toml; UPGRADE=--upgrade takes the newest versions
#     make bench   compare with other denoisers: make bench DATA=folder WORK=folder

PYTHON ?= python3
UPGRADE ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/ready
DEMO_STAMP := $(VENV)/ready-for-demo
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Where it is set, Python keeps no bytecode, and each of the hundred processes of the tests compiles torch and Ray anew.
unexport PYTHONDONTWRITEBYTECODE

# Which models and samples the recordings of the page to listen are made from.
LISTEN := build/listen/ready
HEARD := tools/listening.py $(shell find samples enhance_ray/weights -type f)

.PHONY: demo test drill soak docs lint format lock bench clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) tools/prepare.py $(VENV) cluster,lake,train,eval,hub,teacher,docs,dev
	touch $@

# Half of what the other targets need.
$(DEMO_STAMP): pyproject.toml constraints.txt
	$(PYTHON) tools/prepare.py $(VENV) eval
	touch $@

demo: $(DEMO_STAMP)
	$(BIN)/python benchmarks/demo.py samples demo_out

# A third process costs more than it brings on two cores.
test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

drill: $(STAMP)
	$(BIN)/python -m pytest -m "drill and not soak" -s

soak: $(STAMP)
	$(BIN)/python -m pytest -m soak -s

$(LISTEN): $(HEARD) | $(STAMP)
	$(BIN)/python tools/listening.py build/listen
	touch $@

# Not --quiet, which would hide the warnings that --strict counts. mkdocs-material warns of mkdocs 2, which is not used.
docs: $(STAMP) $(LISTEN)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/lock.py check
	$(MAKE) --no-print-directory docs

lock: $(STAMP)
	$(BIN)/python tools/lock.py write $(UPGRADE)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(PYTHON) tools/prepare.py $(VENV) peers
	$(BIN)/python benchmarks/quality.py --data $(DATA) --work $(WORK) --jobs 2

clean:
	rm -rf $(VENV) .uv demo_out build
