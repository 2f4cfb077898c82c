"""Encrypted sessions of two clients that are online: XEP-0116, XEP-0200, XEP-0217.

scheme       what the pipeline calls, and what programs do with sessions
arriving     what comes: whose it is, and what it calls for
negotiating  from message 1 to an open session, and what may go wrong
traffic      an open session, to its end
sessions     sessions in the store, and as they are shown
retained     secrets that one session leaves for the next, and whom they stand for
tables       the life of a session as data, on which all of these run
offer, four, three, opening, sigma, messages, parameters, states: the negotiation itself, without a store
channel, content, text: stanzas on keys, without a negotiation
"""

from __future__ import annotations

from tillie.schemes.esession.scheme import ESession
from tillie.schemes.esession.sessions import Session
from tillie.schemes.esession.settings import Settings

__all__ = ["ESession", "Session", "Settings"]
