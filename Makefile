# `make` lists the targets. Each does its own set-up and is incremental; the lock lets several builds of one checkout wait
# for each other instead of colliding.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
PYTHON := $(VENV)/bin/python
JOBS ?= $(shell nproc)
PYTEST_ARGS ?=
FUZZ_SECONDS ?= 60
export CMAKE_CXX_COMPILER_LAUNCHER ?= $(shell command -v ccache)

.PHONY: help setup extension build test test-vm test-aarch64 demo bench wheel lint fuzz sanitize clean \
        compiled-extension python-packages

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: ## system packages (by apt when root or sudo), .venv and its tools
	@scripts/setup

# Half of a newcomer's wait would be pip beside an idle processor. Without the flags of the make around it, which would
# warn of another number of jobs.
extension: ## the extension module alone (python/vmthaw/_core*.so), and what running it takes
	@scripts/setup compile
	@MAKEFLAGS= $(MAKE) --no-print-directory --jobs=2 compiled-extension python-packages

compiled-extension:
	@scripts/build release _core

python-packages:
	@scripts/setup run

build: setup ## the extension module (python/vmthaw/_core*.so) and the core tests, build/release
	@scripts/build release

test: build ## everything under tests/: unit, core, sanitizers, integration, linters, the wheel
	@$(PYTHON) -m pytest $(PYTEST_ARGS)

test-vm: build ## virtual machines with other kernels and KVMs: what KVM does there, and tests of userfaultfd and guests
	@tests/vm/run_tests $(PYTEST_ARGS)

test-aarch64: setup ## the core on aarch64: cross-built, its tests under emulation, live guests in a virtual machine
	@tests/aarch64/run_tests $(PYTEST_ARGS)

demo: extension ## the main job: a guest restored lazily, seen as a picture, and restored better
	@$(VENV)/bin/vmthaw demo

bench: build ## the benchmark tables, with JSON beside them
	@$(PYTHON) -m tests.benchmarks

wheel: setup ## dist/*.whl, repaired by auditwheel, with the oldest manylinux tag reachable
	@scripts/wheel

lint: build ## clang-format, clang-tidy, ruff, mypy, stubtest, the include directions and the like
	@$(PYTHON) -m pytest tests/lint $(PYTEST_ARGS)

sanitize: setup ## the core tests under address+undefined and under thread sanitizers
	@$(PYTHON) -m pytest tests/core/test_sanitizers.py $(PYTEST_ARGS)

fuzz: setup ## every fuzz target for FUZZ_SECONDS (60) each under address+undefined sanitizers
	@scripts/fuzz $(FUZZ_SECONDS)

clean: ## remove what was built; .venv stays
	@rm -rf build dist python/vmthaw/_core*.so .mypy_cache .ruff_cache .pytest_cache
