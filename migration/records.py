"""What moves: an *item* lies at the source, and becomes one or more *records* of Strongroom."""

import base64
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from strongroom.models import MODELS, Model, SecretModel, names
from strongroom.models.secret import Secret
from strongroom.models.steps import Step

_PLAIN: Final = {model.prefix(): model for model in MODELS.values() if not issubclass(model, SecretModel)}


@dataclass(frozen=True, slots=True)
class Record:
    """One record as Strongroom is to keep it.

    Its *value* is what is stored under its *name*: of a secret the value of Custodia's simple message (of a
    `SecretModel` its JSON in base64), of a plain model its full form in JSON.
    """

    name: str
    value: Secret

    @classmethod
    def of(cls, model: Model) -> "Record":
        """Return *model* as a record, unchecked.

        Raises:
            InvalidName: its primary key is invalid.
        """
        text = model.to_json()
        return cls(
            model.record_name, Secret((base64.b64encode(text) if isinstance(model, SecretModel) else text).decode())
        )

    @property
    def sealed(self) -> bool:
        """Whether its value is encrypted in the store."""
        return is_sealed(self.name)

    def model(self) -> Model:
        """Return the model of a plain record.

        Raises:
            ValidationError: its value is not a valid one.
            KeyError: no plain model has records of that name.
        """
        return plain_model(self.name).from_json(self.value.reveal().encode())


@dataclass(frozen=True, slots=True)
class Item:
    """One record of the source as it was read.

    *id* says where it lies: printable, the same at every reading, and no secret. *mark* changes whenever the item
    does, and tells nothing of it: a revision, or a keyed hash. One with a *fault* cannot move, and has no records.
    *notes* say what of it stays behind, and what is to be done about that. Neither repeats a value.
    """

    id: str
    mark: str
    records: tuple[Record, ...] = ()
    fault: str = ""
    notes: tuple[str | Step, ...] = field(default=())


class Moving(NamedTuple):
    """A record that can move, the item it is of, and the keyed hash of its value under its name."""

    item: Item
    record: Record
    digest: str


def is_sealed(name: str) -> bool:
    """Whether what has that name is encrypted in the store."""
    return name.startswith((names.SECRETS, names.SYSTEM))


def plain_model(name: str) -> type[Model]:
    """Return the plain model whose records have names like that.

    Raises:
        KeyError: there is none.
    """
    return _PLAIN[names.container_of(name)]
