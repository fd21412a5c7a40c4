.PHONY: run test fast lint format gpu docs

run:
	wantui

test:
	pytest

fast:
	pytest --fast

lint:
	ruff check .
	ruff format --check .
	mypy
	lint-imports

format:
	ruff check --fix .
	ruff format .

gpu:
	pytest tests/test_gpu.py tests/test_kernels.py tests/test_memory.py

docs:
	python docs/keys.py
	python docs/screens.py
