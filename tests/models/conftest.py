"""A small model in every kind of file."""

from tests.inference.conftest import model_files, tiny_module  # noqa: F401  (fixtures)
