# make test      the tests, on python3 or PYTHON=...; installs what they use into .venv
# make test-all  the same tests on every CPython from 3.7 to 3.13 that is found here
# make lint      ruff and mypy
# make pictures  docs/page.png and docs/terminal.png anew, by a browser
# make run       the daemon, for this machine only, asking before each action
# make fuzz, make soak, make schemathesis: a minute for each of three parsers, ten minutes of mixed load, the schema
# make bench     how fast it is, beside others; make bench-growth: how its costs grow
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

pictures: $(VENV)/ready
	$(VENV)/bin/python tests/pictures.py

template: openapi_template.json
openapi_template.json: mycodeinterpreter.py
	$(PYTHON) -c 'import json, mycodeinterpreter as m; print(json.dumps(m.TEMPLATE, indent=2))' > $@.part && mv $@.part $@

$(VENV)/ready: tests/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --requirement tests/requirements.txt
	touch $@

clean:
	rm -rf .venv* .bench .pytest_cache .hypothesis .mypy_cache .ruff_cache __pycache__ tests/__pycache__

# Longer work, in an environment of its own that wants CPython 3.11 to 3.13.

FUZZ_SECONDS ?= 60
SOAK_SECONDS ?= 600
FUZZ_VENV ?= .venv-fuzz

$(FUZZ_VENV)/ready: tests/requirements-fuzz.txt
	$(PYTHON) -m venv $(FUZZ_VENV)
	$(FUZZ_VENV)/bin/python -m pip install --quiet --requirement tests/requirements-fuzz.txt
	touch $@

fuzz: $(FUZZ_VENV)/ready
	@set -e; for target in head chunks multipart; do \
	    $(FUZZ_VENV)/bin/python tests/fuzz.py $$target -max_total_time=$(FUZZ_SECONDS); done

soak: $(VENV)/ready
	SOAK_SECONDS=$(SOAK_SECONDS) $(VENV)/bin/python tests/soak.py

# -shell echo: what would run is printed. Left out: positive_data_acceptance, as the schema can not say "no NUL", and
# negative_data_rejection, which counts parameters that it made up and does not send.
schemathesis: $(FUZZ_VENV)/ready
	@set -e; directory=$$(mktemp -d); mkdir $$directory/work; cd $$directory/work; \
	AUTH_KEY=me:secret $(abspath $(FUZZ_VENV))/bin/python $(CURDIR)/mycodeinterpreter.py -nosafe -shell echo -port 0 \
	    >../out 2>../err </dev/null & daemon=$$!; \
	trap 'kill $$daemon; wait $$daemon; rm -rf $$directory' EXIT; \
	until grep -q '^Starting server' ../out; do kill -0 $$daemon; sleep 0.1; done; \
	url=$$(sed -n 's/^Starting server at //p' ../out); \
	$(abspath $(FUZZ_VENV))/bin/st run $$url/openapi.json --auth me:secret --checks all \
	    --exclude-checks positive_data_acceptance,negative_data_rejection --max-examples 200 --generation-deterministic \
	    --continue-on-failure --request-timeout 30; \
	! grep -n -A20 Traceback ../err

# Ten minutes on a machine that does nothing else; ROUNDS=1 ONLY=exec-1,get PROGRAM=PATH for a quick look.

BENCH_VENV ?= .venv-bench

$(BENCH_VENV)/ready: tests/requirements-bench.txt
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --requirement tests/requirements-bench.txt
	touch $@

bench bench-growth: $(BENCH_VENV)/ready
	@needed=""; for pair in wrk:wrk webhook:webhook nginx:nginx-light; do \
	    PATH="$$PATH:/usr/sbin" command -v $${pair%:*} >/dev/null || needed="$$needed $${pair#*:}"; done; \
	if [ -n "$$needed" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends $$needed >/dev/null; fi
	ROUNDS=$(ROUNDS) ONLY=$(ONLY) PROGRAM=$(PROGRAM) $(BENCH_VENV)/bin/python tests/$(subst -,_,$@).py

.PHONY: test test-all lint run pictures template clean fuzz soak schemathesis bench bench-growth
