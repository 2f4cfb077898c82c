"""Choosing among the options of a form, and checking what was chosen (XEP-0155 sections 4.1, 4.2 and 4.4).

An offer's options are in its sender's order of preference. Who accepts "MUST include in its response values for all the
fields that the request indicated are required", and sets a default that he can't support to a value that he can.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence

from tillie.errors import NegotiationFailed
from tillie.wire.forms import Field, Form

FORM_TYPE = "FORM_TYPE"
SSN = "urn:xmpp:ssn"
# The fields that say what a form means (negotiation.session), not what is agreed on.
DECISIVE = ("accept", "renegotiate", "continue", "terminate")
NO_PARAMETER = (FORM_TYPE, *DECISIVE, "reason")
TRUE, FALSE = ("1", "true"), ("0", "false")


def offered(field: Field) -> tuple[str, ...]:
    """What a field of an offer leaves to choose from, best first: its default, then its options, each once.

    A hidden or text field has no options; then its values are all there is.
    """
    return tuple(dict.fromkeys((*field.values, *field.options)))


def choose(offer: Field, supported: Sequence[str]) -> str | None:
    """The value of an offer that its sender likes best of those that we support; None if there is none."""
    if offer.type == "boolean":
        return _choose_boolean(offer, supported)
    return next((value for value in offered(offer) if value in supported), None)


def choose_many(offer: Field, supported: Sequence[str]) -> tuple[str, ...]:
    """All options of a list-multi that we support, in the order they came in (XEP-0004 section 3.3)."""
    order = offer.options or offer.values
    return tuple(value for value in dict.fromkeys(order) if value in supported)


def _choose_boolean(offer: Field, supported: Sequence[str]) -> str | None:
    """A boolean can be answered either way; its default, false if it has none (XEP-0004 section 3.3), comes first."""
    default = bool(offer.values) and offer.values[0] in TRUE
    for wanted in (default, not default):
        names = TRUE if wanted else FALSE
        if any(name in supported for name in names):
            return names[0]
    return None


def answers(offer: Form, supported: Mapping[str, Sequence[str]], *, skip: Container[str] = ()) -> tuple[Field, ...]:
    """The fields of an answer that accepts an offer: for each field we know, a value that we support.

    `supported` has the values we support, by field. Fields that we don't know are passed over, unless they are
    required. Raises `NegotiationFailed`: "feature-not-implemented" with the required fields that we don't know, or
    else "not-acceptable" with those where we support none of the options.
    """
    unknown: list[str] = []
    impossible: list[str] = []
    chosen: list[Field] = []
    for field in parameters(offer):
        if field.var in skip:
            continue
        if field.var not in supported:
            if field.required:
                unknown.append(field.var)
            continue
        values = _values(field, supported[field.var])
        if values:
            chosen.append(Field(field.var, values=values))
        elif field.required or field.values:
            impossible.append(field.var)
    if unknown:
        raise NegotiationFailed(
            "The offer requires what is not there.", condition="feature-not-implemented", fields=tuple(unknown)
        )
    if impossible:
        raise NegotiationFailed(
            "None of the options can be chosen.", condition="not-acceptable", fields=tuple(impossible)
        )
    return tuple(chosen)


def _values(field: Field, supported: Sequence[str]) -> tuple[str, ...]:
    if field.type == "list-multi":
        return choose_many(field, supported)
    value = choose(field, supported)
    if value is None and not field.options and field.type in ("text-single", ""):
        value = next(iter(supported), None)  # a free text: ours is as good
    return () if value is None else (value,)


def check_chosen(offer: Form, answer: Form, *, skip: Container[str] = ()) -> tuple[str, ...]:
    """The fields of an accepting answer that are not as they should be, in the offer's order; () if all are.

    "In any case the user's client SHOULD verify that the selected values are acceptable": required fields need a
    value, lists one that was offered (only list-multi more than one), booleans a boolean. Fields of the answer that
    were not in the offer are none of our business (XEP-0004 section 3.1).
    """
    return tuple(
        field.var for field in parameters(offer) if field.var not in skip and not _fits(field, answer.get(field.var))
    )


def _fits(offer: Field, answer: Field | None) -> bool:
    if answer is None or not answer.values:
        return not offer.required
    values = answer.values
    if offer.type == "boolean":
        return len(values) == 1 and values[0] in (*TRUE, *FALSE)
    if offer.type == "list-single":
        return len(values) == 1 and values[0] in offered(offer)
    if offer.type == "list-multi":
        return len(set(values)) == len(values) and set(values) <= set(offered(offer))
    return True


def agreed(offer: Form, answer: Form) -> dict[str, tuple[str, ...]]:
    """What holds between two parties after this answer to this offer: what was answered, else the offer's default."""
    found: dict[str, tuple[str, ...]] = {}
    for field in parameters(offer):
        values = answer.values(field.var) or field.values
        if field.type == "boolean":
            values = (TRUE[0],) if values and values[0] in TRUE else (FALSE[0],)
        if values:
            found[field.var] = values
    return found


def parameters(form: Form) -> Iterator[Field]:
    """The fields of a form that something is agreed on with."""
    return (field for field in form.fields if field.var not in NO_PARAMETER)
