"""Speed and size of Tillie beside its peer and its floor: `python -m bench`, or `make bench`.

For each figure, one run measures three things in turn, in the same process on the same machine:

- ours: Tillie, through the calls that a program makes;
- peer: python-omemo with twomemo, which does the same job from the same bytes;
- floor: the cryptographic and parsing primitives that nobody can leave out, in a straight line, with the same
  libraries that Tillie uses (`bench/floor.py` says what is in each).

Only ratios from one run count: machines differ, and drift.
"""
