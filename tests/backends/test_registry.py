"""How backends are found: by their lines in ``BACKENDS``, and by the entry points of other packages."""

import sys

import pytest

import backends
from backends.base import Config, InvalidConfig, Request
from tests.helpers import imported_by, install_guest

GUEST = """
from backends.fake.backend import FakeBackend

class Guest(FakeBackend):
    def versions(self):
        return {"guest": "1.0"}

create = Guest
"""


@pytest.fixture
def guest(tmp_path, monkeypatch):
    install_guest(tmp_path, backends.GROUP, "guest_runtime", GUEST)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "guest"
    sys.modules.pop("guest_runtime", None)


def test_backend_of_another_package_is_named_without_being_imported(guest):
    assert guest in backends.names()
    assert set(backends.BACKENDS) < set(backends.names())
    assert "guest_runtime" not in sys.modules


def test_backend_of_another_package_runs_requests(guest):
    backend = backends.create(guest)
    assert backend.versions() == {"guest": "1.0"}
    assert backend.load(Config("fake")).model == backend.resolve(Config("fake"))
    request = Request(3, 2)
    backend.prepare(request)
    assert backend.run(request).output_tokens == 2
    backend.close()


def test_backend_whose_package_is_broken_is_refused_in_one_line(tmp_path, monkeypatch):
    install_guest(tmp_path, backends.GROUP, "broken_runtime", "import a_module_that_nobody_has")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InvalidConfig, match="a_module_that_nobody_has"):
        backends.create("guest")


def test_refusal_names_backends_of_other_packages_too(guest):
    with pytest.raises(InvalidConfig, match="choose one of fake, guest, llama-cpp, mlx, openai, transformers"):
        backends.create("tensorflow")


def test_without_the_package_there_is_no_such_backend():
    assert "guest" not in backends.names()


def test_names_import_no_backend():
    assert imported_by("import backends; assert backends.names()", "backends") == {"base"}


@pytest.mark.parametrize("name", backends.BACKENDS)
def test_making_a_backend_imports_no_other_and_no_runtime(name):
    own = backends.BACKENDS[name].split(".")[1]
    runtimes = {"torch", "llama_cpp", "mlx", "mlx_lm"}
    code = f"import backends, sys; backends.create('{name}'); assert not sys.modules.keys() & {runtimes}"
    assert {module.split(".")[0] for module in imported_by(code, "backends")} <= {"base", "model_cache", "presets", own}
