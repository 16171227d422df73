# make env    the virtual environment .venv with everything installed
# make demo   QAFeL against FedBuff on real data over MPI: a comparison on screen, report.html and traces in runs/demo
# make test   format and lint, then types and all tests (unit, MPI, system) in parts, JOBS=2 of them at a time
# make unit   the unit tests without the slowest, JOBS=2 parts at a time, in less than three minutes
# make lint   format, lint and types
# make fuzz   changed bytes for every reader, with fresh seeds, for MINUTES=10; what is found is printed
# make soak   10 minutes of 8 ranks, most of them under faults: goodput, wrong results, memory, descriptors, messages
# make docs   the generated parts of the documentation, rendered from the code and docs/results
# make figures  the README's pictures, drawn from docs/results
# make results  measures what docs/results.md publishes, but for what takes hours: two hours on two cores, with nothing else running
# make findings  what docs/findings.md takes from the virtual clock, again: hours. SIZE=small: every section with few seeds and
#             settings, into runs/findings, in less than 15 minutes on two idle cores; fails where a statement turns
# make simulate  more seeds of the simulated network: FIRST=1000 COUNT=10000
# make replays  20 wall runs of different timing and their 20 replays, which must end with the same digests
# make clean  removes .venv and what the tools left behind
#
# OFFLINE=1           the demo downloads nothing
# PYTHON=python3.12   an interpreter other than python3; 3.11 or newer
# QAFEL_MPI=site      the machine's own MPI, with its mpirun on the PATH, in place of the Open MPI wheel

PYTHON ?= python3
MINUTES ?= 10
JOBS ?= 2
QAFEL_MPI ?= wheel
RUN := .venv/bin/python -m

# The stamp says what was installed, and where: a second call installs nothing; a changed or moved project does, and
# so does another MPI of the site.
MPIRUN := $(if $(filter site,$(QAFEL_MPI)),$(shell readlink -f "$$(command -v mpirun)"))
STAMP := .venv/installed-$(QAFEL_MPI)-$(shell { pwd -P; echo "$(MPIRUN)"; cat pyproject.toml .ci/constraints.txt; } | cksum | tr ' ' '-')

.PHONY: help env demo test unit lint fuzz soak docs figures results findings simulate replays clean

help:
	@sed -n '/^$$/q; s/^# \{0,1\}//p' Makefile

env: $(STAMP)

$(STAMP):
	@PYTHON="$(PYTHON)" QAFEL_MPI="$(QAFEL_MPI)" sh .ci/install
	@rm -f .venv/installed-* && touch $@

demo: env
	@sh jobs/demo.sh $(if $(OFFLINE),--offline)

test: env
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) tests.parts --jobs $(JOBS)

unit: env
	$(RUN) tests.parts --jobs $(JOBS) --quick unit "kernels and codecs" analysis

lint: env
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy

fuzz: env
	$(RUN) tests.fuzz $(MINUTES)

# Alone on the machine. It fails where a result is wrong or a run hangs, where memory or descriptors have grown, or where
# goodput is too low.
soak: env
	set -a; . jobs/local.env; set +a; PATH=$$PWD/.venv/bin:$$PATH \
	    qafel-mpi bench chaos --minutes 7.5 --ranks 8 --every 20 --reference docs/results/soak.toml

docs: env
	$(RUN) docs.render

figures: env
	$(RUN) qafel_analysis.figures.published docs/results docs/figures

simulate: env
	$(RUN) tests.simulation $(or $(FIRST),1000) $(or $(COUNT),10000)

results: env
	sh docs/results/measure.sh
	sh docs/results/record.sh
	$(MAKE) figures docs

# RAW and OUT apart from docs/results: what is small is compared with what is published, and not published.
findings: env
ifeq ($(SIZE),small)
	rm -rf runs/findings
	RAW=runs/findings/raw sh docs/results/measure.sh small
	RAW=runs/findings/raw OUT=runs/findings sh docs/results/record.sh small
	$(RUN) docs.render.again runs/findings
else
	sh docs/results/measure.sh headline logistic findings
	sh docs/results/record.sh headline logistic findings
	$(MAKE) docs
endif

replays: env
	set -a; . jobs/local.env; set +a; .venv/bin/mpirun -n 8 .venv/bin/python -m tests.replays

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
