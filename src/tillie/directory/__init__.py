"""Public records and their checks, one module a directory. Private halves live with their scheme, in the store."""
