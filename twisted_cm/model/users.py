"""The people that sign in, and the service users that OAuth clients are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID, uuid5

from attrs import Factory, field, frozen

#: The realm of a user for whom the seed names none.
DEFAULT_REALM = "palantir-internal-realm"

#: The namespace of the ids that follow from usernames.
_NAMESPACE = UUID("0c8f2b1e-5d0f-4c53-9c1c-0d6f0a1f7d53")


def user_id_of(username: str) -> str:
    """Return the id of a user for whom the seed names none: a UUID that is always the same for a username."""
    return str(uuid5(_NAMESPACE, username))


@frozen
class User:
    """A user, as Foundry's admin API shows it.

    Attributes:
        username: The name that jobs carry as ``userId``.
        user_id: A UUID.
        display_name: The name to show; empty for that of the other names.
        is_person: Whether it is a person, who may sign in, and not a service user.
        is_active: Whether the user may sign in and use tokens, those of the seed and of jobs too.
    """

    username: str
    user_id: str = field()
    display_name: str = ""
    given_name: str | None = None
    family_name: str | None = None
    email: str | None = None
    realm: str = DEFAULT_REALM
    organization_rid: str | None = None
    attributes: Mapping[str, tuple[str, ...]] = Factory(dict)
    is_person: bool = True
    is_active: bool = True

    @user_id.default
    def _user_id(self) -> str:
        return user_id_of(self.username)

    @property
    def may_sign_in(self) -> bool:
        """Whether the page for signing in offers this user."""
        return self.is_person and self.is_active

    @property
    def shown_name(self) -> str:
        """The name by which people know the user."""
        names = " ".join(filter(None, (self.given_name, self.family_name)))
        return self.display_name or names or self.username

    def describe(self) -> dict[str, Any]:
        """Return the user in the form of Foundry's admin API, without what is not known.

        That API has two values for ``status``. Of a user who is not active it is ``DELETED``.
        """
        described = {
            "id": self.user_id,
            "username": self.username,
            "givenName": self.given_name,
            "familyName": self.family_name,
            "email": self.email,
            "realm": self.realm,
            "organization": self.organization_rid,
            "status": "ACTIVE" if self.is_active else "DELETED",
            "attributes": {name: list(values) for name, values in self.attributes.items()},
        }
        return {name: value for name, value in described.items() if value is not None}


#: The user who may sign in when the seed has no users. It owns the development token, too.
DEVELOPMENT_USER = User("admin", display_name="Admin", given_name="Admin")


def users_of(seeded: Iterable[User]) -> dict[str, User]:
    """Return the users of an emulator by their usernames: those of its seed, or else the development user."""
    return {each.username: each for each in seeded} or {DEVELOPMENT_USER.username: DEVELOPMENT_USER}
