"""Encrypted sessions of two clients that are online: XEP-0116, XEP-0200, XEP-0217."""
