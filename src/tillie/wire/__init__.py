"""Strict codecs without keys: untrusted bytes become values here, within named limits, or raise `errors.Malformed`."""
