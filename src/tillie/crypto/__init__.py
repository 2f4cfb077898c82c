"""Primitives on pyca/cryptography and PyNaCl, one module each. No other room imports those two libraries."""
