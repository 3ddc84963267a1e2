"""A campaign of seeded faults: damaged files, mistyped commands, hostile requests.

`python -m tests.fuzz --help` runs it; docs/reliability.md has its results.
"""
