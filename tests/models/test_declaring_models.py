"""Adding a model is one class; a class that contradicts itself is never made."""

from collections.abc import Iterator

import msgspec
import pytest

from strongroom.models import LIST_MODELS, MODELS, ListModel, Model, SecretModel, ValidationError, base
from strongroom.models.secret import Secret


@pytest.fixture(autouse=True)
def _registry_as_it_was() -> Iterator[None]:
    """Take the models that a test declares out of the registry again."""
    stored, listed = dict(base._models), dict(base._list_models)
    yield
    for registry, before in ((base._models, stored), (base._list_models, listed)):
        for name in registry.keys() - before.keys():
            del registry[name]


def test_one_class_is_a_model() -> None:
    """A class with annotated fields has names, rules, forms and its place in the registry."""

    class Rack(Model):
        plural = "racks"
        primary_key = "label"

        label: str
        units: int = 42

    class Racks(ListModel[Rack]):
        pass

    rack = Rack.from_json(b'{"label": "r1"}')

    assert MODELS["Rack"] is Rack
    assert LIST_MODELS["Racks"] is Racks
    assert rack.record_name == "racks/r1"
    assert rack.to_dict() == {"label": "r1", "units": 42}
    assert repr(rack) == "<Rack label=r1, units=42>"
    assert Racks([rack]).to_json() == b'[{"label":"r1","units":42}]'


def test_one_class_is_a_secret_model() -> None:
    """A secret twin has its own class in the same container below secrets/, masked without a word about it."""

    class RackCode(SecretModel):
        plural = "racks"
        primary_key = "label"

        label: str
        codes: list[Secret] = msgspec.field(default_factory=list)

    code = RackCode.from_dict({"label": "r1", "codes": ["0000"]})

    assert code.record_name == "secrets/racks/r1"
    assert code.codes == [Secret("0000")]
    assert code.to_dict() == {"label": "r1", "codes": ["0000"]}
    assert code.to_dict_safe() == {"label": "r1", "codes": "********"}
    with pytest.raises(ValidationError, match="codes holds an item that must be text"):
        RackCode.from_dict({"label": "r1", "codes": [["0000"]]})


def test_a_plain_model_with_a_secret_is_refused() -> None:
    """A secret that would be stored in the clear cannot be declared."""
    with pytest.raises(TypeError, match="is not a SecretModel"):

        class Door(Model):
            code: Secret = Secret("")


def test_a_secret_model_without_a_secret_is_refused() -> None:
    """A secret model whose every field would be shown is a mistake."""
    with pytest.raises(TypeError, match="no field of type Secret"):

        class Door(SecretModel):
            plural = "doors"
            primary_key = "name"

            name: str
            code: str = ""


def test_a_flag_alone_makes_no_secret() -> None:
    """CPD-101's _secrets attribute follows from the class and cannot be set against it."""
    with pytest.raises(TypeError, match="secret by its base"):

        class Door(Model):
            _secrets = True

    with pytest.raises(TypeError, match="secret by its base"):

        class Gate(SecretModel):
            _secrets = False


@pytest.mark.parametrize("key", ["", "address", "size", "code"])
def test_a_stored_model_needs_a_key(key: str) -> None:
    """The primary key is a text field of the model, and no secret one."""
    with pytest.raises(TypeError, match="needs a primary key"):

        class Door(SecretModel):
            plural = "doors"
            primary_key = key

            name: str
            size: int = 0
            code: Secret = Secret("")


@pytest.mark.parametrize("container", ["secrets", "system", "a/b", "..", "Ä", "hosts"])
def test_a_container_is_legal_and_ones_own(container: str) -> None:
    """No model lies where the service keeps its own, where another lies, or where no name leads."""
    with pytest.raises(TypeError, match="plural"):

        class Door(Model):
            plural = container
            primary_key = "name"

            name: str


def test_a_name_is_given_once() -> None:
    """Two models of one name are refused, and so are two lists."""
    with pytest.raises(TypeError, match="name of another model"):

        class Host(Model):
            plural = "machines"
            primary_key = "name"

            name: str

    with pytest.raises(TypeError, match="list model named Hosts already"):

        class Hosts(ListModel[Model]):
            pass


def test_what_is_hidden_exists() -> None:
    """Hiding a field that is not there is a misspelling."""
    with pytest.raises(TypeError, match="hides a field"):

        class Door(Model):
            hidden = ("cod",)


def test_a_field_of_an_unknown_kind_is_refused() -> None:
    """A field nobody can validate cannot be declared."""
    with pytest.raises(TypeError, match="cannot be annotated"):

        class Door(Model):
            made: complex = 0j
