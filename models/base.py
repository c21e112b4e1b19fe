"""What all records share: its name, its rules, and its full and safe forms.

A model is one class with annotated fields, and making the class is all the registering there is::

    class Rack(Model):
        plural = "racks"  # records lie under racks/
        primary_key = "label"  # this one under racks/<label>

        label: str
        units: int = 42

The *full* form is what is stored, and sent to who may have it. The *safe* form leaves out hidden fields and masks
secrets; ``repr`` and ``str`` show the safe form, and of lists and objects only the size, so no log line shows more.

Records are mutable, because "fetch, change a field, save" is what services do with them; nothing leans on a record
staying valid, since whoever stores one validates it at that moment.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import (
    Any,
    ClassVar,
    Final,
    Generic,
    Self,
    TypeVar,
    dataclass_transform,
    get_args,
    get_type_hints,
    overload,
)

import msgspec

from strongroom.models import names, strict_json
from strongroom.models.errors import Fault, InvalidName, ValidationError
from strongroom.models.fields import Field, Rule, field_of, first_of
from strongroom.models.secret import REDACTED, Secret

UNKNOWN: Final = "(unknown)"
"""Stands for the name of a field that the model does not have: what was sent is not repeated."""
DOCUMENT: Final = "(document)"
"""Stands for a field where the document as a whole is at fault."""

_PLURAL: Final = re.compile(r"[a-z][a-z0-9_-]*")

_models: Final[dict[str, type["Model"]]] = {}
_list_models: Final[dict[str, type["ListModel[Any]"]]] = {}
MODELS: Final[Mapping[str, type["Model"]]] = MappingProxyType(_models)
"""Every model whose records are stored, by the name of its class."""
LIST_MODELS: Final[Mapping[str, type["ListModel[Any]"]]] = MappingProxyType(_list_models)
"""Every list model, by the name of its class."""


def _complete(model: Any) -> None:
    """Read the laws of a new model's fields, and register it if its records are stored.

    Raises:
        TypeError: the class contradicts itself; said when it is made, so that no such model ever runs.
    """
    hints = get_type_hints(model, include_extras=True)
    laws = {
        field.name: replace(field_of(hints[field.name]), required=field.required)
        for field in msgspec.structs.fields(model)
    }
    has_secret = any(law.secret for law in laws.values())
    _demand(model, model._secrets or not has_secret, "has a secret field but is not a SecretModel")
    _demand(model, set(model.hidden) <= laws.keys(), "hides a field that it does not have")
    _demand(model, "_secrets" not in vars(model) or model.__module__ == __name__, "is secret by its base, not a flag")
    if model.plural:
        key = laws.get(model.primary_key)
        if key is None or key.secret or hints[model.primary_key] is not str:
            raise TypeError(f"{model.__name__} needs a primary key: one of its fields, and a str")
        _demand(model, has_secret or not model._secrets, "is a SecretModel and has no field of type Secret")
        _demand(model, _PLURAL.fullmatch(model.plural) is not None, "has a plural that is not a segment of a name")
        _demand(model, model.plural not in names.RESERVED, "has a plural that the service keeps for itself")
        _demand(model, model.__name__ not in _models, "has the name of another model")
        _demand(model, all(model.prefix() != other.prefix() for other in _models.values()), "has another's plural")
        laws[model.primary_key] = replace(key, fault=first_of(key.fault, _key_rule(model.name_of)))
        _models[model.__name__] = model
    model._fields = MappingProxyType(laws)


def _demand(model: type, holds: bool, fault: str) -> None:
    if not holds:
        raise TypeError(f"{model.__name__} {fault}")


def _key_rule(name_of: Callable[[str], str]) -> Rule:
    def fault(key: str) -> str | None:
        if not key:
            return "must not be empty"
        try:
            name_of(key)
        except InvalidName:
            return f"must be one segment of [A-Za-z0-9._@:+-], not '.' or '..', in a name of {names.MAX_NAME} bytes"
        return None

    return fault


class _ModelMeta(msgspec.StructMeta):
    """Makes a model a keyword-only struct, reads the laws of its fields, and registers it where it is stored."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **config: Any) -> "_ModelMeta":
        return super().__new__(mcls, name, bases, namespace, kw_only=True, **config)

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **config: Any) -> None:
        # Here and not in __init_subclass__: a struct knows its fields only once it is made (msgspec#572).
        super().__init__(name, bases, namespace, **config)
        _complete(cls)


@dataclass_transform(kw_only_default=True, field_specifiers=(msgspec.field,))
class Model(msgspec.Struct, metaclass=_ModelMeta):
    """A record of the platform: typed fields, one of which names it among its kind.

    Making an instance checks nothing; `validate`, `from_dict` and `from_json` do, and tell every fault at once.
    """

    plural: ClassVar[str] = ""
    """The container of the records; empty for a model that is only ever an answer and never stored."""
    primary_key: ClassVar[str] = ""
    """The field that tells one record from another."""
    hidden: ClassVar[tuple[str, ...]] = ()
    """Fields that the safe form leaves out."""
    _secrets: ClassVar[bool] = False
    _fields: ClassVar[Mapping[str, Field]] = {}

    # -- names

    @classmethod
    def prefix(cls) -> str:
        """Return what the names of all records of this model begin with: ``hosts/``, ``secrets/hosts/``.

        Raises:
            TypeError: records of this model are never stored.
        """
        if not cls.plural:
            raise TypeError(f"{cls.__name__} is never stored, so it has no name")
        return f"{names.SECRETS if cls._secrets else ''}{cls.plural}/"

    @classmethod
    def name_of(cls, key: str) -> str:
        """Return the name of the record whose primary key is *key*.

        Raises:
            InvalidName: *key* is not one legal segment of a name.
            TypeError: records of this model are never stored.
        """
        if not key or "/" in key:
            raise InvalidName("a primary key is one segment of a name")
        return names.check(cls.prefix() + key)

    @property
    def key(self) -> str:
        """The value of the primary key."""
        return str(getattr(self, self.primary_key))

    @property
    def record_name(self) -> str:
        """The record's one name: storage key, access resource, bound data and audit subject.

        Raises:
            InvalidName: the primary key is not one legal segment of a name.
            TypeError: records of this model are never stored.
        """
        return self.name_of(self.key)

    # -- in

    @classmethod
    def new(cls, **values: object) -> Self:
        """Return a record of *values* over the defaults, unchecked.

        Plain text becomes a `Secret`, or a member of an enumeration, where the field holds one.

        Raises:
            TypeError: a field is unknown, or has neither default nor value.
        """
        laws = cls._fields
        return cls(**{name: laws[name].adopt(value) if name in laws else value for name, value in values.items()})

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """Return the valid record whose full form is *values*.

        Raises:
            ValidationError: with every fault there is.
        """
        required = {name: msgspec.UNSET for name, law in cls._fields.items() if law.required}
        known = {name: law.adopt(values[name]) for name, law in cls._fields.items() if name in values}
        record = cls(**(required | known))
        faults = record.faults()
        if len(known) < len(values):
            faults += (Fault(UNKNOWN, f"is not a field of {cls.__name__}"),)
        if faults:
            raise ValidationError(cls.__name__, faults)
        return record

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Return the valid record whose full form, in JSON as `strict_json` reads it, is *text*.

        Raises:
            ValidationError: with every fault there is.
        """
        values = _decode(cls.__name__, text)
        if not isinstance(values, dict):
            raise ValidationError(cls.__name__, [Fault(DOCUMENT, "must be an object")])
        return cls.from_dict(values)

    # -- rules

    def faults(self) -> tuple[Fault, ...]:
        """Return everything that is wrong with the record, field by field."""
        found = []
        for name, law in self._fields.items():
            value = getattr(self, name)
            reason = "is required" if value is msgspec.UNSET else law.fault(value)
            if reason is not None:
                found.append(Fault(name, reason))
        return tuple(found)

    def validate(self) -> None:
        """Return if nothing is wrong with the record.

        Raises:
            ValidationError: with every fault there is.
        """
        if faults := self.faults():
            raise ValidationError(type(self).__name__, faults)

    # -- out

    def to_dict(self) -> dict[str, Any]:
        """Return the full form, secrets revealed."""
        full: dict[str, Any] = msgspec.to_builtins(self, enc_hook=_reveal)
        return full

    def to_json(self) -> bytes:
        """Return the full form as JSON, secrets revealed."""
        return _FULL.encode(self)

    def to_dict_safe(self) -> dict[str, Any]:
        """Return the safe form: without hidden fields, and with a mask where there is a secret."""
        safe: dict[str, Any] = msgspec.to_builtins(dict(self._safe_items()))
        return safe

    def to_json_safe(self) -> bytes:
        """Return the safe form as JSON."""
        return msgspec.json.encode(dict(self._safe_items()))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={_show(value)}" for name, value in self._safe_items())
        return f"<{type(self).__name__} {shown}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(name, _show(value)) for name, value in self._safe_items()]

    def _safe_items(self) -> Iterator[tuple[str, Any]]:
        # What is masked is decided by the field and not by the value: a plain str put into a secret field is masked.
        for name, law in self._fields.items():
            if name not in self.hidden:
                value = getattr(self, name)
                yield name, (REDACTED if value else "") if law.secret else value


class SecretModel(Model):
    """A record that no store ever sees: all of it is encrypted before it is stored, under ``secrets/``."""

    _secrets: ClassVar[bool] = True


M_co = TypeVar("M_co", bound=Model, covariant=True)


class ListModel(Sequence[M_co], Generic[M_co]):
    """Records of one model; the JSON form is a bare list of theirs. ``class Racks(ListModel[Rack])`` declares one."""

    item: ClassVar[type[Model]]
    """The model of the records."""

    def __init__(self, records: Iterable[M_co] = ()) -> None:
        self._records = tuple(records)

    def __init_subclass__(cls, **config: Any) -> None:
        super().__init_subclass__(**config)
        (cls.item,) = get_args(cls.__orig_bases__[0])  # type: ignore[attr-defined]  # what ListModel[...] leaves behind
        if _list_models.setdefault(cls.__name__, cls) is not cls:
            raise TypeError(f"there is a list model named {cls.__name__} already")

    @classmethod
    def prefix(cls) -> str:
        """Return what the names of all its records begin with."""
        return cls.item.prefix()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Return the valid records whose full forms, in a JSON list, are *text*.

        Raises:
            ValidationError: with every fault of every record, the field as ``[3].address``.
        """
        values = _decode(cls.__name__, text)
        if not isinstance(values, list):
            raise ValidationError(cls.__name__, [Fault(DOCUMENT, "must be a list")])
        return cls.from_list(values)

    @classmethod
    def from_list(cls, values: Sequence[object]) -> Self:
        """Return the valid records whose full forms are *values*.

        Raises:
            ValidationError: with every fault of every record, the field as ``[3].address``.
        """
        records: list[Any] = []
        faults: list[Fault] = []
        for index, value in enumerate(values):
            if not isinstance(value, Mapping):
                faults.append(Fault(f"[{index}]", "must be an object"))
                continue
            try:
                records.append(cls.item.from_dict(value))
            except ValidationError as error:
                faults += (Fault(f"[{index}].{fault.field}", fault.reason) for fault in error.faults)
        if faults:
            raise ValidationError(cls.__name__, faults)
        return cls(records)

    def validate(self) -> None:
        """Return if nothing is wrong with any of the records.

        Raises:
            ValidationError: with every fault of every record, the field as ``[3].address``.
        """
        faults = [
            Fault(f"[{index}].{fault.field}", fault.reason)
            for index, record in enumerate(self._records)
            for fault in record.faults()
        ]
        if faults:
            raise ValidationError(type(self).__name__, faults)

    def to_list(self) -> list[dict[str, Any]]:
        """Return the full forms, secrets revealed."""
        return [record.to_dict() for record in self._records]

    def to_list_safe(self) -> list[dict[str, Any]]:
        """Return the safe forms."""
        return [record.to_dict_safe() for record in self._records]

    def to_json(self) -> bytes:
        """Return the full forms as a JSON list, secrets revealed."""
        return _FULL.encode(self._records)

    def to_json_safe(self) -> bytes:
        """Return the safe forms as a JSON list."""
        return msgspec.json.encode(self.to_list_safe())

    @overload
    def __getitem__(self, index: int) -> M_co: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[M_co, ...]: ...
    def __getitem__(self, index: int | slice) -> M_co | tuple[M_co, ...]:
        return self._records[index]

    def __len__(self) -> int:
        return len(self._records)

    def __eq__(self, other: object) -> bool:
        return self._records == other._records if isinstance(other, type(self)) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # its records are mutable

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self)} records>"


def _reveal(value: object) -> str:
    if isinstance(value, Secret):
        return value.reveal()
    raise NotImplementedError(f"a {type(value).__name__} has no JSON form")


_FULL: Final = msgspec.json.Encoder(enc_hook=_reveal)


def _show(value: object) -> str:
    match value:
        case list() | dict():
            return f"<{len(value)} items>"
        case str() if value and not value.isprintable():
            return ascii(value)  # a line break in a value must not begin a line in a log
        case _:
            return str(value or "<Empty>")


def _decode(model: str, text: bytes) -> object:
    try:
        # A record that lies somewhere must stay readable; how much it may hold is asked where it comes in.
        return strict_json.decode(text, most=len(text))
    except strict_json.MalformedJSON as error:
        reason = str(error)
    # Raised out here: the parser's error, which holds the whole document, is not to hang on this one.
    raise ValidationError(model, [Fault(DOCUMENT, reason)])
