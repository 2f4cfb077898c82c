"""Primitives on pyca/cryptography and PyNaCl, OpenPGP on pysequoia; one module each. No other room imports these."""
