# pmq: mixed-precision search for vision transformers. `make help` lists the targets.
PYTHON ?= python3
VENV   ?= .venv
PMQ    := $(VENV)/bin/pmq
STAMP  := $(VENV)/.installed

# Options of the commands; each is passed on only if it is set.
# They are not assigned with ?=, which would take a stray DATA or OUT from the environment.
BUDGET     = 4bit
MODEL      =
CHECKPOINT =
DATA       =
SPACE      =
TARGET     =
SEED       =
PATCHES    =
KIND       =
SHARE      =
RATIO      =
OUT        =
ARGS       =
# Device of gpu-check.
DEVICE     =
# Schedule for the embedded model, whose 800 training images take 3 minutes of one core.
TUNING     = --reconstruct --calib-images 256 --mix --epochs 20 --lr 5e-5 --batch-size 32 --held-out 200
# Number of cases and kills of the campaigns.
CASES      = 10000
KILLS      = 200
# Run that the other commands read (default: the latest).
RUN        =
WHAT       = $(or $(RUN),latest)

flag = $(if $($(1)),$(2) "$($(1))")
SUBJECT = $(MODEL) $(call flag,CHECKPOINT,--checkpoint) $(call flag,DATA,--data)

.DEFAULT_GOAL := help
.PHONY: help install search patches prune finetune evaluate profile deploy export plot report test test-mobile test-bridges test-ray gpu-check fuzz chaos bench check dist docs clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## create .venv and install pmq into it

$(STAMP): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "pmq needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt setuptools
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[test,onnx,openvino,prune]'
	touch $@

search: $(STAMP) ## search the Pareto front and an allocation within BUDGET=4bit, latency=2ms, ... [MODEL= CHECKPOINT= DATA= SPACE= TARGET= SEED= PATCHES=static OUT=run ARGS=]
	$(PMQ) search $(SUBJECT) --budget "$(BUDGET)" $(call flag,SPACE,--space) $(call flag,TARGET,--target) \
	  $(call flag,SEED,--seed) $(call flag,PATCHES,--patches) $(call flag,OUT,--out) --resume $(ARGS)

patches: $(STAMP) ## allocate bits to the single patches of the latest run's allocation [RUN= KIND=dynamic SHARE=0.8 CHECKPOINT= DATA= ARGS=]
	$(PMQ) patches "$(WHAT)" $(SUBJECT) $(call flag,KIND,--kind) $(call flag,SHARE,--share) $(call flag,OUT,--out) $(ARGS)

prune: $(STAMP) ## prune a model, refit it, and quantize, deploy and time the result [MODEL= RATIO=0.25 CHECKPOINT= DATA= TARGET= OUT=folder ARGS=]
	$(PMQ) prune $(SUBJECT) $(call flag,RATIO,--ratio) --target "$(or $(TARGET),onnxruntime)" $(call flag,SEED,--seed) $(call flag,OUT,--out) $(ARGS)

finetune: $(STAMP) ## fine-tune a model with 3-bit weights and activations, or RUN=run or folder, by distillation from FP32 [MODEL= CHECKPOINT= DATA= OUT=folder ARGS=]
	$(PMQ) finetune "$(or $(RUN),w3a3)" $(SUBJECT) $(if $(or $(RUN),$(MODEL)),,$(TUNING)) $(call flag,SEED,--seed) $(call flag,OUT,--out) --resume $(ARGS)

evaluate: $(STAMP) ## evaluate the latest run's allocation, or WHAT=fp32,w4a4,FILE [MODEL= CHECKPOINT= DATA= ARGS=]
	$(PMQ) evaluate "$(WHAT)" $(SUBJECT) $(call flag,SPACE,--space) $(call flag,SEED,--seed) $(ARGS)

profile: $(STAMP) ## measure the latency of every layer at every choice in a runtime [MODEL= CHECKPOINT= TARGET= OUT=file ARGS=]
	$(PMQ) profile $(MODEL) $(call flag,CHECKPOINT,--checkpoint) $(call flag,TARGET,--target) $(call flag,OUT,--out) $(ARGS)

deploy: $(STAMP) ## write and prove a model file of the latest run's allocation, or of WHAT=w8a8,FILE [MODEL= DATA= TARGET= OUT=folder ARGS=]
	$(PMQ) deploy "$(WHAT)" $(SUBJECT) $(call flag,TARGET,--target) $(call flag,OUT,--out) $(ARGS)

export: $(STAMP) ## write the latest run's allocation.json with its schema, or ARGS="--format nncf" [RUN= OUT=file ARGS=]
	$(PMQ) export $(if $(RUN),"$(RUN)") $(call flag,OUT,--out) $(ARGS)

plot: $(STAMP) ## draw the latest run's figures [RUN= OUT=folder ARGS=]
	$(PMQ) plot $(if $(RUN),"$(RUN)") $(call flag,OUT,--out) $(ARGS)

report: $(STAMP) ## write the latest run's report.html, or RUN="A B" side by side [OUT=file ARGS=]
	$(PMQ) report $(RUN) $(call flag,OUT,--out) $(ARGS)

test: $(STAMP) ## run the tests with one process per core, at most four
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

test-mobile: $(VENV)-litert/.installed $(VENV)-executorch/.installed ## test LiteRT and ExecuTorch, each in its own .venv (4 GB)
	$(VENV)-litert/bin/python -m pytest tests/runtimes tests/cli -k "litert or phones" $(ARGS)
	$(VENV)-executorch/bin/python -m pytest tests/runtimes tests/cli -k "executorch or phones" $(ARGS)

test-bridges: $(VENV)-bridges/.installed ## test exports with the tools that read them, in their own .venv (4 GB)
	NNCF_EXTENSION_LOAD_TIMEOUT=0 $(VENV)-bridges/bin/python -m pytest tests/exports tests/docs -k "exports or going" $(ARGS)

$(VENV)-%/.installed: setup.cfg pyproject.toml constraints.txt constraints-litert.txt
	$(PYTHON) -m venv $(VENV)-$*
	$(VENV)-$*/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-$*/bin/python -m pip install --quiet --constraint $(or $(wildcard constraints-$*.txt),constraints.txt) setuptools
	$(VENV)-$*/bin/python -m pip install --quiet --constraint $(or $(wildcard constraints-$*.txt),constraints.txt) \
	  --no-build-isolation --editable '.[test,onnx,$*]'
	touch $@

gpu-check: $(STAMP) ## compare and time DEVICE=cuda with the CPU, and test it [DEVICE=cpu for a run without a GPU, OUT=file.json ARGS=]
	PMQ_DEVICE="$(or $(DEVICE),cuda)" $(VENV)/bin/python -m pytest tests/test_device.py
	$(VENV)/bin/python -m pmq.bench.gpu_check --device "$(or $(DEVICE),cuda)" --out "$(or $(OUT),results/gpu.json)" $(ARGS)

test-ray: $(STAMP) ## install Ray and test searches and evaluations on a cluster of two nodes that loses workers and a node
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[ray]'
	PMQ_RAY=1 OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest tests/evaluation/test_ray_executor.py tests/pipeline/test_ray_search.py $(ARGS)

fuzz: $(STAMP) ## damage files in CASES=10000 ways and check that each is read correctly or rejected in one line [SEED= ARGS=]
	$(VENV)/bin/python -m tests.campaigns.fuzz --cases $(CASES) $(call flag,SEED,--seed) $(ARGS)

chaos: $(STAMP) ## kill commands at KILLS=200 moments, fill disks, run rivals, and check that a second run gives the same result [SEED= ARGS=]
	$(VENV)/bin/python -m tests.campaigns.chaos --kills $(KILLS) $(call flag,SEED,--seed) $(ARGS)

bench: $(STAMP) ## benchmark simulation, deployed models, metrics, memory and the search
	$(VENV)/bin/python -m pmq.bench $(ARGS)

check: $(STAMP) ## lint and type-check
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[check]'
	$(VENV)/bin/ruff check pmq tests docs
	$(VENV)/bin/ruff format --check pmq tests docs
	$(VENV)/bin/mypy

dist: $(STAMP) ## build the source distribution and the wheel into dist/
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt build
	$(VENV)/bin/python -m build --no-isolation

docs: $(STAMP) ## build the pages of docs/ into build/site and check their links
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet

clean: ## remove .venv, caches and builds, but keep results
	rm -rf $(VENV) $(VENV)-litert $(VENV)-executorch $(VENV)-bridges build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find pmq tests -name __pycache__ -type d -prune -exec rm -rf {} +
