"""A node as a person uses it: make it, share it, write, read, sign, take access back. On engine and a service."""
