# Everything a person needs in a clone. Each target makes what it needs first, so they work in any order.
#
#   make PYTHON=/path/to/python3.12     another interpreter (3.11 or newer)
#   make test ARGS="-k lanes -x"        further arguments for pytest, or for the demo or the benchmarks
#   make test WORKERS=1                 the suite in one process beside pytest, where nothing runs beside anything

PYTHON ?= $(shell for p in python3.11 python3; do \
            if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$p; break; fi; done)
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
ARGS   ?=
# Processes among which `make test` shares the files of tests; `auto` is that of tests/sharing.py. With ARGS it is none but
# pytest itself: one test starts at once, and what it prints is seen.
WORKERS ?= $(if $(ARGS),0,auto)

.DEFAULT_GOAL := help
.PHONY: help venv test test-million backups check format demo bench peers plots bench-quick kill-loop crashpoints fuzz \
        chaos soak check-history simulate simulate-plants mutants build clean moved

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

venv: $(STAMP) ## make the virtual environment in .venv and install the project with its tools

# A virtual environment holds absolute paths, so one that came along with a moved or copied clone is made anew.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
$(STAMP): moved
endif

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "zbroker needs Python 3.11 or newer: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@echo "$(CURDIR)" > $@

test: $(STAMP) ## run the whole test suite, on all processors
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(STAMP) ## format, lint, types, import rules, style, words: seconds
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/test_import_rules.py tests/test_style.py tests/test_glossary.py tests/test_docs.py tests/test_job_states.py

format: $(STAMP) ## format the code and repair what the linter can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

demo: $(STAMP) ## a real broker and real workers index the standard library while they are killed
	@$(BIN)/zbroker demo $(ARGS)

bench: $(STAMP) ## the benchmarks, as ratios
	@$(BIN)/python -m benchmarks $(ARGS)

peers: $(STAMP) ## install the libraries of the systems that the benchmarks compare with
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,peers]'

plots: $(STAMP) ## the pictures of docs/benchmarks.md, from what make bench wrote with --json to FILE=
	@test -f "$(FILE)" || { echo "make plots FILE=what-make-bench-wrote.json" >&2; exit 2; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,plots]'
	@$(BIN)/python -m benchmarks.plots $(FILE) docs/images

bench-quick: $(STAMP) ## instructions per job, counted by valgrind, beside the figure that is kept
	@$(BIN)/python -m benchmarks.instructions $(ARGS)

test-million: $(STAMP) ## list, replay, drop and purge with a million jobs, while a probe watches the loop
	@ZBROKER_TEST_JOBS=1000000 $(BIN)/python -m pytest tests/system/test_turns.py -s

backups: $(STAMP) ## what senders notice of a backup (--store sqlite, --rate, --seconds, ... in ARGS)
	@$(BIN)/python -m benchmarks.backups $(ARGS)

kill-loop: $(STAMP) ## kill producers, workers and broker ROUNDS times (SEED=, STORE=), and see that nothing is lost
	@$(BIN)/python -m tests.kill_loop $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED)) \
	    $(if $(STORE),--store $(STORE))

crashpoints: $(STAMP) ## kill a broker at every step, damage its log everywhere, fail every write (PARTS="steps disks logs", SEED=)
	@$(BIN)/python -m tests.crashpoints $(PARTS) $(if $(SEED),--seed $(SEED)) $(ARGS)

mutants: $(STAMP) ## plant bugs in a copy, and see that the tests catch each one (NAMES="skip the fence, credit")
	@$(BIN)/python -m tests.mutants $(if $(NAMES),--names "$(NAMES)") $(ARGS)

fuzz: $(STAMP) ## say everything to whatever listens, guided by coverage, and floods, for MINUTES= (TARGETS="decoder broker flood")
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,fuzz]' || true
	@$(BIN)/python -m tests.fuzz $(if $(MINUTES),--minutes $(MINUTES)) $(TARGETS) $(ARGS)

chaos: $(STAMP) ## harm processes, links and disk for MINUTES (SEED=), and judge the history of all of it
	@$(BIN)/python -m tests.chaos $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED)) $(ARGS)

soak: $(STAMP) ## a steady load for HOURS: memory, descriptors, disk and latency stay flat
	@$(BIN)/python -m tests.soak $(if $(HOURS),--hours $(HOURS)) $(ARGS)

check-history: $(STAMP) ## make a history of OPS operations (or take the one in HISTORY) and check it
	@$(BIN)/python -m tests.history $(if $(HISTORY),$(HISTORY),--generate $(if $(OPS),$(OPS),10000000))

simulate: $(STAMP) ## whole systems from SEEDS seeds (STEPS=, FIRST=, or SEED= alone): faults, crashes, and all must settle
	@$(BIN)/python -m tests.simulation $(if $(SEEDS),--seeds $(SEEDS)) $(if $(STEPS),--steps $(STEPS)) \
	    $(if $(FIRST),--first $(FIRST)) $(if $(SEED),--seed $(SEED)) $(ARGS)

simulate-plants: $(STAMP) ## put bugs into the product, one by one, and see that the simulation finds each
	@$(BIN)/python -m tests.simulation --plants $(if $(SEEDS),--seeds $(SEEDS))

build: $(STAMP) ## build sdist and wheel into dist/, and try the wheel, the image's steps and compose's file
	@rm -rf dist
	@$(BIN)/python -m build --outdir dist .
	@$(BIN)/python -m pytest deploy $(ARGS)

clean: ## remove everything that make and the tools made, .venv included
	@rm -rf $(VENV) dist build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .fuzz
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
