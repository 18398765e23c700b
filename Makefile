# Two commands matter: `make run` and `make test`. Both set up .venv first, from the exact versions in constraints.txt.
# On two busy cores: installation 2 to 5 minutes, `make run` 1, `make test` 45.
SHELL  := bash
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip

# One thread a process: two of them run side by side, spinning OpenMP threads would starve the neighbour, and sums of floats
# come back to the last digit only with the same number of threads.
QUIET  := OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 OMP_NUM_THREADS=1

# of pip's words: every tenth package, what takes long to load, and the silent end
SAY    := /^ *(Collecting|Processing) / { if (++n % 10 == 0) print "  " n " packages found, now " $$2 }  \
          /Downloading .*[0-9][0-9]\.[0-9] MB\)/ { print "  loading " $$2 " " $$3 " " $$4 }              \
          /^Installing collected /  { print "  " n " packages found, installing them: 1 to 3 minutes without a word" } \
                                    { fflush() }

# where `make run` writes; git ignores out/, so that the reports that are committed stay as they are
OUT    ?= out

# what `make dist` builds with: an environment of its own, since neither torch nor the tests are needed for it
TOOLS  := build/tools

# the libraries that the report `outside` compares with: a folder of their own, put on PYTHONPATH by whoever wants them
LIBRARIES = $(shell sed -n "s/^outside_requirements = //p" settings.ini)

# of one day: left to itself pip tries a hundred versions of botocore
OBJECTS := s3fs==2026.9.0 aiobotocore==3.10.0 botocore==1.43.117 boto3==1.43.117 moto==5.2.5 flask==3.1.3 flask-cors==6.0.5 \
           py-partiql-parser==0.6.3

.PHONY: run reports test notebooks setup outside s3 export readme index book dist clean

setup: $(VENV)/.installed

$(VENV)/.installed: settings.ini setup.py pyproject.toml constraints.txt ipython_kernel_config.py
	@test -x $(BIN)/python || { echo "making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing the packages of constraints.txt into $(VENV): 2 to 5 minutes, 2 GB"
	@set -o pipefail; $(PIP) install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[notebooks,dev,offline,book,ann,serve,ray]' | awk '$(SAY)'
	@mkdir -p $(VENV)/etc/ipython && cp ipython_kernel_config.py $(VENV)/etc/ipython/
	@touch $@

run: setup  ## the main job on the embedded toy set, into out/toy/
	@mkdir -p $(OUT)/toy
	@echo "training on toy: ten folds and three seeds, then tables and figures; a minute"
	$(QUIET) MAMEX_REPORTS=$(OUT) $(BIN)/papermill nbs/run.ipynb $(OUT)/toy/run.ipynb -p dataset toy
	@$(BIN)/python tests/committed.py $(OUT)/toy/run.json reports/toy/run.json
	@echo "Read $(OUT)/toy/run.md, or $(OUT)/toy/run.ipynb with its pictures."

reports: setup  ## every report of one dataset: make reports dataset=movielens [only=ablations,audit] [budget=4h]
	$(BIN)/mamex reports $(or $(dataset),toy) $(if $(only),--only $(only)) $(if $(jobs),--jobs $(jobs)) $(if $(budget),--budget $(budget))

outside: setup  ## .outside/, the libraries of the report `outside`: export PYTHONPATH=$$PWD/.outside; a minute or two
	$(PIP) install -q --disable-pip-version-check --no-deps --no-build-isolation --upgrade -c constraints.txt --target .outside $(foreach l,$(LIBRARIES),'$(l)')

s3: setup  ## .s3/, an object store to test with and what reads it (they ask for older packages than the rest); a minute
	$(PIP) install -q --disable-pip-version-check --upgrade --target .s3 $(OBJECTS)

test: setup  ## notebooks, clean export, README and its commands, properties, faults; prints the coverage of mamex/
	@echo "testing: each notebook once, then the rest; 45 minutes on two busy cores"
	@failed=0; t="env $(QUIET) $(BIN)/python -m pytest --durations=15 --cov"; \
	  $$t -n 2 --dist worksteal -m "not alone" --cov-report= || failed=1; \
	  echo "and what needs the machine for itself"; \
	  $$t -m alone --cov-append --cov-report=term || failed=1; exit $$failed

# `make test` runs each notebook by the function behind nbdev_test (tests/test_notebooks.py), and holds the same run against the
# exported module. Here is nbdev_test itself for the chapters, and papermill for the reports, which are quick: few epochs.
QUICKLY := run ablations sensitivity audit peers best missing_modality temporal_coldstart cold_users nights speed cost

notebooks: setup  ## the notebooks alone
	TQDM_DISABLE=1 MAMEX_REPORTS=$(OUT)/quick $(QUIET) $(BIN)/nbdev_test --n_workers 2 --do_print
	@mkdir -p $(OUT)/quick
	@for n in $(QUICKLY); do echo "nbs/$$n.ipynb"; MAMEX_REPORTS=$(OUT)/quick $(QUIET) $(BIN)/papermill \
	  --no-progress-bar --log-level ERROR nbs/$$n.ipynb $(OUT)/quick/$$n.ipynb -p quick True || exit 1; done

export: setup  ## after editing a notebook: module, clean notebooks, README.md
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	$(MAKE) readme

readme: setup
	$(BIN)/python tests/readme.py README.md

index: setup  ## reports/README.md, claims and questions, from the reports that are there
	MAMEX_REPORTS=reports $(QUIET) $(BIN)/python -c 'from mamex.studies.front import write_index; write_index()'

book: setup  ## notebooks, reports and reference as a static site in _book/; a minute or two, no network
	$(QUIET) $(BIN)/python book/build.py

dist:  ## wheel and source distribution in dist/, checked: make dist [TAG=v0.1.0]; refuses a tag that is another version
	@$(PYTHON) tests/tag.py  # reads TAG from the environment, where make puts it
	@test -x $(TOOLS)/bin/python || $(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt build twine
	@rm -rf build/dist && $(TOOLS)/bin/python -m build -q --outdir build/dist
	@$(TOOLS)/bin/twine check --strict build/dist/*
	@rm -rf dist && mv build/dist dist && echo "Look into dist/:" && ls dist

clean:
	rm -rf $(VENV) .outside .s3 build dist _book ._book.work out *.egg-info .pytest_cache .coverage
