# make demo and make test are the two commands; both make .venv and install what is missing (scripts/setup).
.NOTPARALLEL:
.PHONY: help demo test interop lint bench lock clean
unexport PYTHONPATH PYTHONHOME PYTHONSAFEPATH

PYTHON ?=
export PYTHON
BIN = .venv/bin

help:
	@echo "make demo      a sealed conversation, a private blog, an encrypted session, on real servers; two homes"
	@echo "make test      lint, types, contracts, and all tests but the heavy ones"
	@echo "make interop   the tests against heavy peers"
	@echo "make lint      ruff, mypy, import contracts"
	@echo "make bench     measure ours, the peer and the floor side by side"
	@echo "make lock      make the lock files anew (make lock UPGRADE=1: newest versions)"
	@echo "make clean     remove the environment and caches"

demo:
	@sh scripts/setup run prosody
	@$(BIN)/tillie demo conversation
	@$(BIN)/tillie demo pubsub
	@$(BIN)/tillie demo session
	@$(BIN)/tillie demo matrix

test: lint
	@sh scripts/setup dev prosody
	$(BIN)/python -m pytest -m "not heavy"

interop:
	@sh scripts/setup dev prosody ejabberd gpg go-sendxmpp libervia synapse
	$(BIN)/python -m pytest -m heavy

lint:
	@sh scripts/setup dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
# Its cache once missed an import into a folder that had just got its __init__.py.
	$(BIN)/lint-imports --no-cache

bench:
	@sh scripts/setup dev gpg synapse
	$(BIN)/python -m bench

lock:
	sh scripts/lock $(if $(UPGRADE),--upgrade)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
