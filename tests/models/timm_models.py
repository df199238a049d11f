"""timm, whose models need nothing of torchvision but that its name can be imported."""

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import sys
import types


class _Class(type):
    """A class that has every attribute, as a text."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{cls.__name__}.{name}"


class _Anything(types.ModuleType):
    """A module that has every name, as a class that nobody calls."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Class(name, (), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Anything(spec.name)

    def exec_module(self, module):
        module.__path__ = []


@contextlib.contextmanager
def _standing_in():
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]


def timm():
    """The package."""
    if "timm" in sys.modules:
        return sys.modules["timm"]
    with _standing_in():
        importlib.import_module("timm.data")
        return importlib.import_module("timm")
