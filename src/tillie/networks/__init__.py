"""What carries sealed elements from one device to another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tillie.engine import DecisionMaker
from tillie.model import Address, Notice
from tillie.pipeline import Policy
from tillie.schemes import Scheme
from tillie.schemes.esession.scheme import ESession
from tillie.schemes.esession.settings import Settings
from tillie.schemes.omemo import Omemo, Repair
from tillie.schemes.openpgp import OpenPgp
from tillie.sessions import Answer


@dataclass(frozen=True, slots=True)
class Options:
    """How an account is at work, on whatever network.

    `listening` takes what waited at the server and shows us as available. `decide` asks a person about keys, `notice`
    tells her things. `label` is what other devices may call this one, `history` whether messages are kept. `answer` is
    whose offer of an encrypted session is taken at once, `sessions` what such a session may be like.
    """

    listening: bool = True
    policy: Policy = Policy.BLIND
    decide: DecisionMaker | None = None
    notice: Callable[[Notice], None] = lambda _: None
    label: str = ""
    history: bool = False
    repair: Repair = Repair.MANUAL
    answer: Answer = Answer.CONTACTS
    sessions: Settings = field(default_factory=Settings)

    def schemes(self, account: Address) -> tuple[Scheme, ...]:
        """The account's schemes; the first is the one that is meant where none is named."""
        return (
            Omemo(account, label=self.label, repair=self.repair),
            OpenPgp(account),
            ESession(account, self.sessions),
        )


USUAL = Options()
