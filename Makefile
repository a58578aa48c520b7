# make demo: a pulse-shape analysis of real germanium data; the report is in report/index.html.
# make test: the test suite. Both make .venv first where it is missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
WORKERS ?= auto
# Options of pip for torch: make TORCH_INDEX="--index-url ..." takes the CPU build that pytorch.org
# names, instead of the one for CUDA.
TORCH_INDEX ?=

.PHONY: demo test lint doctest benchmarks clean

# Made again only when a list of dependencies changes. An environment without pip is the rest of a
# failed attempt: Debian and Ubuntu keep venv in a package of its own.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sknuc needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try make PYTHON=python3.12 ...")'
	$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) \
		|| { rm -rf $(VENV); echo "Python cannot make a virtual environment; install python3-venv."; exit 1; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(TORCH_INDEX) torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/python examples/hpge_pulse_shape.py

test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=worksteal

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

doctest: $(INSTALLED)
	$(BIN)/python -m pytest --quiet --numprocesses=$(WORKERS) --doctest-modules sknuc

benchmarks: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[benchmark]"
	for file in benchmarks/[a-z]*.py; do $(BIN)/python $$file || exit 1; done

clean:
	rm -rf $(VENV) build report *.egg-info
