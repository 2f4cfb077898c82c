"""Sessions of stanzas that two parties agree on (XEP-0155) and the threads that name them (XEP-0201), pure, and usable
without any encryption."""
