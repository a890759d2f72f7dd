# Learning to Learn, executed. `make` lists the targets; each one sets itself up first.

PYTHON  ?= python3
DATASET ?=
PROFILE ?=
SEED    ?=
JOBS    ?= 2
TORCH_BACKEND ?=

# Everything below is relative to this folder, so that a space in its path does no harm.
SHELL := /bin/sh
PY := .venv/bin/python
READY := .venv/.ready
PEERS_PY := _build/peers/bin/python
PEERS := _build/peers/.ready
NOTEBOOKS := $(shell sed -n 's|^ *- file: *\(book/.*\.ipynb\) *$$|\1|p' _toc.yml)
SOURCES := $(shell find book -name .ipynb_checkpoints -prune -o -type f \
	\( -name '*.md' -o -name '*.py' -o -name '*.bib' -o -name '*.css' -o -name '*.js' -o -name '*.png' -o -name '*.svg' \
	-o -name '*.sh' \) -print)
PACKAGE := $(shell find mlcore -name '*.py' 2>/dev/null)
WEIGHTS := $(wildcard data/weights/*.safetensors)
RECORDS := $(wildcard data/*.yaml data/results/*.json data/benchmarks/*.json)

# One output folder for each choice of parameters: going back to an earlier choice runs nothing again.
# What is not given is left as the notebook has it.
CHOICE := $(or $(DATASET),embedded)$(if $(PROFILE),-$(PROFILE))$(if $(SEED),-seed$(SEED))
PARAMETERS := $(if $(DATASET),--dataset $(DATASET)) $(if $(PROFILE),--profile $(PROFILE)) $(if $(SEED),--seed $(SEED))
RUN := _build/run/$(CHOICE)
PAGES := _build/html/.rendered-$(CHOICE)

# Several notebooks run side by side, each on one thread. With JOBS=1 a notebook has all cores.
ifneq ($(JOBS),1)
export OMP_NUM_THREADS ?= 1
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help setup book read pdf executed test check check-all bench lint types lab notebooks clean

help:
	@echo 'make book       run every chapter and render the book to _build/html (no data to download)'
	@echo '                DATASET=omniglot: on the real images   PROFILE=quick|record   SEED=0   JOBS=2'
	@echo 'make read       render the chapters as they were committed, without running them; make pdf: one PDF, by Chromium'
	@echo 'make test       check the style, test mlcore and the rendered book, re-run the committed notebooks'
	@echo 'make check      style, types and the quick tests, in about a minute; make check-all: under every Python here'
	@echo 'make bench      time and memory: beside other libraries, of our own choices and methods, on several processes; drawn'
	@echo 'make lab        open the first chapter in JupyterLab'
	@echo 'make notebooks  run the committed notebooks again, in place'
	@echo 'make lint       check the style only'
	@echo 'make clean      remove what was built (not .venv)'
	@echo
	@echo 'The first target you make installs what it needs into .venv.'
	@echo 'PYTHON=python3.12 picks the Python (3.11 to 3.13); TORCH_BACKEND=cpu installs a small, CPU-only PyTorch.'

setup: $(READY)

# The stamp remembers the backend, so that a later, plain `make test` keeps a CPU-only environment.
$(READY): pyproject.toml requirements.lock
	@test -x $(PY) || $(PYTHON) -c 'import sys; v = sys.version_info; (3, 11) <= v < (3, 14) or sys.exit(f"Python 3.11, 3.12 or 3.13 is needed, and $(PYTHON) is {v[0]}.{v[1]}: name another one, as in make PYTHON=python3.12")'
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@echo 'installing into .venv …'
	@$(PY) -m pip install --quiet 'uv>=0.7'
	@backend="$(TORCH_BACKEND)"; test -n "$$backend" || backend=$$(cat $(READY) 2>/dev/null || true); \
	if test -n "$$backend"; then \
	  $(PY) -m uv pip install --quiet --python $(PY) --torch-backend "$$backend" -e '.[book,test]'; \
	else \
	  $(PY) -m uv pip install --quiet --python $(PY) -r requirements.lock --no-deps -e .; \
	fi && printf '%s' "$$backend" > $(READY)

book: $(READY)
	@$(MAKE) --no-print-directory -j$(JOBS) executed
	@$(MAKE) --no-print-directory $(PAGES)
	@echo "The book is ready: open $$(pwd)/_build/html/index.html"

executed: $(NOTEBOOKS:%=$(RUN)/%)

$(RUN)/%.ipynb: %.ipynb $(PACKAGE) $(RECORDS) book/execute.py $(READY)
	@$(PY) book/execute.py $(PARAMETERS) $< $@

# Sphinx starts afresh every time: on a second, incremental run it would not repeat the warnings that failed the first.
# $(1): notebooks to lay over the committed ones.
define render
	@rm -rf _build/src _build/html
	@mkdir -p _build/src
	@cp -R _config.yml _toc.yml book _build/src/
	$(if $(1),@cp -R $(1) _build/src/)
	@$(PY) -m typer mlcore.__main__ utils docs --name mlcore > _build/src/book/api/commands.txt
	@.venv/bin/jupyter-book build _build/src --path-output . --all -W -n --keep-going --quiet
	@touch $@
endef

$(PAGES): $(NOTEBOOKS:%=$(RUN)/%) $(SOURCES) $(WEIGHTS) _config.yml _toc.yml
	$(call render,$(RUN)/book)

# The book as it was committed: nothing is run.
read: $(READY)
	@$(MAKE) --no-print-directory _build/html/.rendered-committed
	@echo "The book is ready: open $$(pwd)/_build/html/index.html"

_build/html/.rendered-committed: $(NOTEBOOKS) $(SOURCES) $(PACKAGE) $(WEIGHTS) _config.yml _toc.yml
	$(call render)

# Of the pages that are there, or else of the committed ones.
pdf: $(READY)
	@test -f _build/html/index.html || $(MAKE) --no-print-directory read
	@$(PY) book/pdf.py

# The pages that are tested are those of embedded data. DATASET=omniglot is for nbval, which then runs copies told so.
test: lint types
	@$(MAKE) --no-print-directory book DATASET= PROFILE= SEED=
	$(PY) -m pytest -n $(JOBS)
	notebooks="$(if $(strip $(PARAMETERS)),$$($(PY) book/given.py _build/given/$(CHOICE) $(NOTEBOOKS) $(PARAMETERS)),$(NOTEBOOKS))" && \
	$(PY) -m pytest -n $(JOBS) --dist loadfile -W default --nbval-lax --nbval-current-env $$notebooks

bench: $(READY) $(PEERS)
	$(PEERS_PY) benchmarks/race.py
	$(PY) benchmarks/choices.py
	$(PY) benchmarks/front.py
	$(PY) benchmarks/relatives.py
	$(PY) benchmarks/ranks.py
	$(PY) benchmarks/environments.py
	$(PY) benchmarks/invented.py

# The other libraries get an environment of their own, with the same torch.
$(PEERS): benchmarks/peers.txt $(READY)
	@echo 'installing the other libraries into _build/peers …'
	@$(PY) -m venv --clear _build/peers
	@backend=$$(cat $(READY)); \
	if test -n "$$backend"; then set -- --torch-backend "$$backend"; else set -- --constraint requirements.lock; fi; \
	$(PY) -m uv pip install --quiet --python $(PEERS_PY) "$$@" -r benchmarks/peers.txt -e '.[data]'
	@touch $@

# What to run before a commit.
check: lint types
	$(PY) -m pytest -q -n $(JOBS) -m 'not slow' --ignore tests/book --durations 0 --durations-min 2

# Types and the quick tests under each other Python that is here, 3.11 to 3.13, in environments of their own.
check-all: $(READY)
	@for python in python3.11 python3.12 python3.13; do \
	  if $(PY) -c "import sys; sys.exit('$$python' != 'python%d.%d' % sys.version_info[:2])"; then :; \
	  elif $$python -c '' 2>/dev/null; then $(MAKE) --no-print-directory _build/check/$$python/.checked || exit 1; \
	  else echo "$$python is not here"; fi; \
	done

_build/check/%/.checked: $(PACKAGE) requirements.lock $(READY)
	@test -x $(@D)/bin/python || $* -m venv $(@D)
	@backend=$$(cat $(READY)); \
	if test -n "$$backend"; then set -- --torch-backend "$$backend" -e '.[test]'; \
	else set -- -r requirements.lock --no-deps -e .; fi; \
	$(PY) -m uv pip install --quiet --python $(@D)/bin/python "$$@"
	$(PY) -m basedpyright --project pyproject.toml --pythonversion $(*:python%=%)
	$(@D)/bin/python -m pytest -q -n $(JOBS) -m 'not slow' --ignore tests/book -p no:cacheprovider
	@touch $@

types: $(READY)
	$(PY) -m basedpyright --project pyproject.toml

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	.venv/bin/codespell README.md CONTRIBUTING.md CHANGELOG.md mlcore tests benchmarks data/*.yaml book

lab: $(READY)
	cd book && ../$(PY) -m jupyterlab $$(test "$$(id -u)" != 0 || echo --allow-root) \
	  --ServerApp.root_dir=. $(patsubst book/%,%,$(firstword $(NOTEBOOKS)))

notebooks: $(READY)
	@$(MAKE) --no-print-directory -j$(JOBS) $(NOTEBOOKS:%=%.again)

%.ipynb.again:
	@$(PY) book/execute.py $*.ipynb $*.ipynb

clean:
	rm -rf _build .pytest_cache .ruff_cache .hypothesis
