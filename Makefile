# make test      the tests, on the newest of the machine's python3; installs what they use into .venv
# make test-all  the same tests on every CPython from 3.7 to 3.13 that is found here
# make lint      ruff and mypy
# make run       the daemon, for this machine only, asking before each action
# make clean     removes what the above have made

PYTHON ?= python3
VENV ?= .venv

test: $(VENV)/ready
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile tests

test-all:
	tests/test_all.sh

lint: $(VENV)/ready
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m mypy mycodeinterpreter.py

run:
	$(PYTHON) mycodeinterpreter.py noauth

template: openapi_template.json
openapi_template.json: mycodeinterpreter.py
	$(PYTHON) -c 'import json, mycodeinterpreter as m; print(json.dumps(m.TEMPLATE, indent=2))' > $@.part && mv $@.part $@

$(VENV)/ready: tests/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --requirement tests/requirements.txt
	touch $@

clean:
	rm -rf .venv* .pytest_cache .hypothesis .mypy_cache .ruff_cache __pycache__ tests/__pycache__

.PHONY: test test-all lint run template clean
