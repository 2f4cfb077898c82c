"""Stanza Content Encryption (XEP-0420): the envelope, its affixes, and what may be sealed in one."""
