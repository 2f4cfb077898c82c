"""Whom a person trusts: decisions on keys, policies that decide in her place, fingerprints to compare."""
