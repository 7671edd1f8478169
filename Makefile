# make quickstart   set up, then distill a small student and compare
# make test         set up, then run the whole test suite
# make coverage     the same, and say which lines it runs
# make lint         set up, then check style and types
# make docs         set up, then build the site in docs/en/_build/html
# make tables       set up, then fill the tables of the docs from results/
# make setup        .venv with everything in it (done once)
#
# STACK=onedl takes the maintained fork of OpenMMLab, in .venv-onedl.
# TESTS='tests/test_compat ...' is what `make test` runs, all by default.
# PYTHON=python3.12 chooses the Python (3.10 to 3.12, with the fork to 3.13).

STACK := openmmlab
ifeq ($(filter openmmlab onedl,$(STACK)),)
$(error Expected STACK=openmmlab or STACK=onedl, but got STACK=$(STACK))
endif
VENV := .venv$(if $(filter onedl,$(STACK)),-onedl)

# Test files are shared out to this many processes of one thread each, in the
# order of tests/conftest.py.
WORKERS := 2
TESTS :=
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest \
	-n $(WORKERS) --dist loadfile --no-loadscope-reorder $(TESTS)

.PHONY: quickstart test coverage lint docs tables setup

quickstart: setup
	$(VENV)/bin/python tools/quickstart.py

test: setup
	$(PYTEST)

coverage: setup
	$(PYTEST) --cov --cov-report=term-missing:skip-covered

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: setup
	$(VENV)/bin/python -W ignore -m sphinx -q -W --keep-going \
		docs/en docs/en/_build/html

tables: setup
	PYTHONPATH=tools $(VENV)/bin/python -W ignore .dev_scripts/make_tables.py

setup:
	@STACK=$(STACK) tools/setup_env.sh
