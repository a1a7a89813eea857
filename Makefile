# Needs Python 3.11, 3.12 or 3.13 and make; the first target that wants it builds .venv from requirements.lock.
PYTHON ?= python3
BIN := .venv/bin

# Set on the command line only: assigned here so that variables of these names in the environment do not count.
# Recipes read them from their environment, word for word, so that neither make nor the shell takes them apart.
FINDING =
STUDY =
RUN =
SETTING =
override FINDING := $(value FINDING)
override STUDY := $(value STUDY)
override RUN := $(value RUN)
override SETTING := $(value SETTING)
export FINDING STUDY RUN SETTING

# A kernelspec set from outside must not replace the one in .venv.
unexport JUPYTER_PATH

.PHONY: help run check test portable campaign lab notebooks book lock clean
.DEFAULT_GOAL := help

help: ## this list
	@echo "make TARGET, where TARGET is one of:"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-12s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "make run takes FINDING=Effusion STUDY=folder RUN=folder. PYTHON=python3.12 chooses the interpreter for .venv."

run: .venv/ready ## execute the notebooks into runs/ and print the test AUC
	$(BIN)/python notebooks/execute.py $${FINDING:+--finding "$$FINDING"} $${STUDY:+--study "$$STUDY"} $${RUN:+--run "$$RUN"}

check: .venv/ready ## lint, format check, types, the fast tests: no TensorFlow, no process, no browser
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not tensorflow and not process and not browser and not notebooks"

# Three processes on two cores: one is often waiting for a browser, a worker or a kernel.
test: .venv/ready ## lint, format check, types, every test, notebooks included
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

portable: .venv/ready ## the tests that touch numbers, as other processors would run them; SETTING=no-onednn for one
	$(BIN)/python tests/portable.py $${SETTING:+"$$SETTING"}

campaign: .venv/ready ## thousands of damaged images, tens of killed processes: what breaks?
	$(BIN)/python tests/robustness/campaign.py

lab: .venv/ready ## JupyterLab in notebooks/
	$(BIN)/jupyter lab --allow-root --notebook-dir=notebooks

notebooks: .venv/ready ## execute the committed notebooks in place on the bundled study, renew its run
	env -u CXR_DATA -u CXR_RUN -u CXR_NIH $(BIN)/python notebooks/execute.py --in-place
	rm -rf medical/models/cardiomegaly && mkdir -p medical/models && cp -R runs/cardiomegaly medical/models/

book: .venv/ready ## README and executed notebooks as a static site in build/book/, links checked
	$(BIN)/python notebooks/book.py

lock: ## resolve requirements.lock anew from pyproject.toml
	$(PYTHON) -m venv .lock-venv
	.lock-venv/bin/python -m pip install --quiet uv
	.lock-venv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --fork-strategy fewest \
		--all-extras --generate-hashes --no-emit-index-url --no-emit-find-links \
		--custom-compile-command "make lock" --output-file requirements.lock pyproject.toml > /dev/null

clean: ## remove .venv, runs/ and caches
	rm -rf .venv .lock-venv runs build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# Two stamps: a changed lock means a fresh .venv, a changed pyproject.toml only the package itself anew.
.venv/locked: requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(not (3, 11) <= v < (3, 14) and \
		"cxrlib needs Python 3.11, 3.12 or 3.13 (TensorFlow 2.21 is built for these); $(PYTHON) is %d.%d." % v[:2] \
		+ "\nName another one: make PYTHON=python3.12 ...")'
	@echo "Installing the packages of requirements.lock into .venv: 3.7 GB and some minutes, once."
	$(PYTHON) -m venv --clear .venv || { \
		echo "No .venv: on Debian and Ubuntu the venv module is a package of its own, apt install python3-venv."; exit 1; }
	$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

.venv/ready: .venv/locked pyproject.toml
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@touch $@
