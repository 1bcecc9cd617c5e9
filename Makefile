SHELL := /bin/bash
VENV := .venv
.PHONY: build
build:
	@mkdir -p build
	flock build/.lock bash -c 'cmake --preset release -DPython_EXECUTABLE=$(CURDIR)/$(VENV)/bin/python -Dpybind11_DIR=$$($(VENV)/bin/python -m pybind11 --cmakedir) >build/configure.log || { cat build/configure.log; exit 1; }; cmake --build --preset release'
