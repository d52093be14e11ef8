# quickstart and test do everything from a bare clone; the rest assumes the same environment.
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: setup quickstart test test-slow check kernels clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(PY) || python3 -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

# A finished run is taken up again: its trials are kept, its report and export are written anew.
quickstart: setup
	$(VENV)/bin/miras-search sweep quickstart --name quickstart $(if $(wildcard runs/quickstart),--resume)
	$(VENV)/bin/miras-search report runs/quickstart -o runs/quickstart/report.html
	$(VENV)/bin/miras-search export runs/quickstart -o runs/quickstart/exported --overwrite --sample "The "

test: setup
	$(PY) -m pytest -n auto --dist loadfile --durations=15

test-slow: setup
	$(PY) -m pytest -m slow --durations=15

check: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

kernels: setup
	$(PY) -m miras_search.codegen.golden

clean:
	rm -rf $(VENV) build dist *.egg-info
