# Two commands matter: `make run` and `make test`. Both set up .venv first, from the exact versions in constraints.txt.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip

# two notebooks or test processes run side by side, a thread each; spinning OpenMP threads would starve the neighbour
QUIET  := OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 OMP_NUM_THREADS=1

.PHONY: run reports test setup export readme clean

setup: $(VENV)/.installed

$(VENV)/.installed: settings.ini setup.py pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt -e '.[dev,offline]'
	touch $@

run: setup  ## the main job on the embedded toy set, into reports/toy/
	mkdir -p reports/toy
	$(BIN)/papermill --no-progress-bar nbs/run.ipynb reports/toy/run.ipynb -p dataset toy
	@echo "Read reports/toy/run.md, or reports/toy/run.ipynb with its pictures."

reports: setup  ## every report of one dataset: make reports dataset=movielens [only=ablations,audit]
	$(BIN)/python -m mamex.reports $(or $(dataset),toy) $(if $(only),--only $(only)) $(if $(jobs),--jobs $(jobs))

test: setup  ## notebooks, clean export, README, properties, faults; prints the coverage of mamex/
	$(QUIET) $(BIN)/nbdev_test --n_workers 2
	$(QUIET) $(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term

export: setup  ## after editing a notebook: module, clean notebooks, README.md
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	$(MAKE) readme

readme: setup
	$(BIN)/python tests/readme.py README.md

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .coverage
