# make train    install, try everything out on Pong for three to ten minutes, evaluate
# make test     install, run the tests
# make test-faults    what make test leaves out: the faults and runs that take minutes each
# make test-soak      half an hour of training after a warm-up, in which nothing may grow (45 minutes)
# make check    formatting, lint and types
# make bench-layer, bench-supervised, bench-continual, bench-a3c, bench-scale, bench-evaluation    speed of the layers, of training
#               steps, of whole runs, of many workers, beside evaluations, on a quiet machine; JSON=path writes the figures
# make bench-learning    what A3C learns on five games, in hours; ARGS="--seeds 1 --variant 'name:flags' ..." changes the panel
# make profile-a3c    where an A3C worker's time goes: shares, a trace and a picture of the stacks, in profile/
# Another Python than the first 3.11 or 3.12 found: make PYTHON=/path/to/python3.12 venv

PYTHON ?= $(shell for p in python3 python3.11 python3.12; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

.PHONY: train test test-faults test-soak check profile-a3c bench-a3c bench-a3c-gpu bench-scale bench-evaluation bench-learning bench-layer bench-supervised bench-continual venv
.DELETE_ON_ERROR:

venv: .venv/installed

.venv/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or 3.12 found; install one, or name it: make PYTHON=/path/to/python3.12 venv" >&2; exit 2; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "error: $(PYTHON) cannot make a virtual environment; on Debian: apt install python3-venv" >&2; exit 2; }
	@touch $@

.venv/installed: requirements.txt .venv/python
	$(BIN)/pip install --quiet --requirement requirements.txt
	@touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(BIN)/pip install --quiet --requirement requirements-dev.txt
	@touch $@

# Three to five minutes on two cores with bf16, ten on old ones: enough to see everything at work, too few to play well.
train: .venv/installed
	$(BIN)/python -m launch.train --preset two-cores --env Pong --head neurocoder --total-steps 120_000

test: .venv/installed-dev
	$(BIN)/python -m pytest --quiet

test-faults: .venv/installed-dev
	$(BIN)/python -m pytest --verbose --durations 20 -m slow

test-soak: .venv/installed-dev
	$(BIN)/python -m pytest --quiet -m soak

check: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench-a3c: .venv/installed-dev
	$(BIN)/python -m tests.benchmarks.a3c $(if $(JSON),--json $(JSON))

# 1, 2 and 4 workers on one GPU, about three minutes.
bench-a3c-gpu: .venv/installed-dev
	$(BIN)/python -m tests.benchmarks.a3c_gpu $(if $(JSON),--json $(JSON))

profile-a3c: .venv/installed-dev
	$(BIN)/python -m tests.benchmarks.profile_a3c

bench-scale: .venv/installed-dev
	$(BIN)/python -m tests.benchmarks.scale $(if $(JSON),--json $(JSON))

# What evaluations cost the workers beside them, about six minutes.
bench-evaluation: .venv/installed-dev
	$(BIN)/python -m tests.benchmarks.evaluation $(if $(JSON),--json $(JSON))

# What A3C learns on a panel of games: about six hours on two cores. RUN_DIR=folder keeps runs and continues them.
bench-learning: .venv/installed-dev
	$(BIN)/python -m tests.benchmarks.learning --run-dir $(or $(RUN_DIR),runs/bench-learning) $(ARGS)

bench-layer: .venv/installed-dev
	$(BIN)/python -m tests.benchmarks.layer $(if $(JSON),--json $(JSON))

bench-supervised: .venv/installed-dev
	$(BIN)/python -m tests.benchmarks.supervised $(if $(JSON),--json $(JSON))

bench-continual: .venv/installed-dev
	$(BIN)/python -m tests.benchmarks.continual $(if $(JSON),--json $(JSON))
