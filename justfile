# What one does in this repository; `just` alone lists it. Everything runs in the current environment.

default:
    @just --list

# install in this environment, with the tools of the tests
install:
    pip install -c constraints.txt -e '.[test]'

# install in this environment, another than that of the tests, with what benchmarks compare ours to
install-bench:
    pip install -e '.[bench]'

# the main job: a sweep, its law, and the model to train
demo:
    llama-scale sweep
    llama-scale plan --serve-tokens 1e12

# every test
test *arguments:
    pytest {{arguments}}

# the tests that take seconds
quick:
    pytest -m "not slow and not soak"

# faults many times over: minutes
soak:
    pytest -m soak

# lint, layout of the code, types and import contracts
lint:
    ruff check .
    ruff format --check .
    lint-imports

types:
    pyright

format:
    ruff check --fix .
    ruff format .

# what the issues call the checks: lint, types and tests
check: lint types test

# speed, measured and not asserted
bench *arguments:
    for script in benchmarks/*.py; do python "$script" {{arguments}}; done

# run the notebooks and keep their output in them
notebooks:
    jupyter execute --inplace notebooks/*.ipynb

# write the help of every command into docs/commands.md
docs:
    python docs/write_commands.py

# all of it from a fresh environment, as before a change goes in
ci:
    .ci/run
