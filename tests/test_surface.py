"""Every public function says all that it should and its example runs; every op is where its name says and refuses."""

import doctest
import importlib
import inspect
import re
import types
from pathlib import Path

import pytest
import torch
from torch._library.simple_registry import singleton as registrations

import gramian

ROOT = Path(__file__).parent.parent
PUBLIC = {name: getattr(gramian, name) for name in gramian.__all__ if not name.startswith("__")}
FAMILIES = {name: value for name, value in PUBLIC.items() if inspect.ismodule(value)}
FUNCTIONS = {
    f"{family}.{name}": getattr(module, name)
    for family, module in FAMILIES.items()
    for name in module.__all__
    if inspect.isfunction(getattr(module, name))
} | {name: value for name, value in PUBLIC.items() if inspect.isfunction(value)}
OPS = sorted(
    name.removeprefix("gramian::")
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith("gramian::") and "." not in name
)
SECTIONS = ["Returns", "Raises", "Cost", "Accuracy", "References", "Example"]


def test_there_is_a_surface():
    assert {"engine", "neighbors", "ntk"} <= FAMILIES.keys()
    assert {"neighbors.knn", "ntk.linear_gram", "engine.gram_square_sum"} <= FUNCTIONS.keys()
    assert {"gram_square_sum", "neighbors_knn", "ntk_linear_gram"} <= set(OPS)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_a_module_that_names_what_is_public(family):
    module = FAMILIES[family]
    assert isinstance(module, types.ModuleType)
    assert module.__doc__
    assert sorted(module.__all__) == list(module.__all__)
    for name, value in vars(module).items():
        public = not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
        assert not public or name in module.__all__, f"{family}.{name} is neither private nor in __all__"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_docstring_has_all_its_sections_in_order(name):
    function = FUNCTIONS[name]
    text = inspect.getdoc(function)
    assert text, f"{name} has no docstring"
    said = ["Returns", "Raises", "Example"] if name.startswith("plot.") else SECTIONS  # a figure computes nothing
    wanted = (["Args"] if inspect.signature(function).parameters else []) + said
    found = re.findall(r"^(\w+):$", text, re.MULTILINE)
    assert [section for section in found if section in wanted] == wanted
    assert len(text.splitlines()[0]) <= 120
    arguments = text.split("Args:")[1].split("Returns:")[0] if "Args" in wanted else ""
    for parameter in inspect.signature(function).parameters:
        assert re.search(rf"^    .*\b{parameter}\b.*:", arguments, re.MULTILINE), f"{name} does not explain {parameter}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_typed(name):
    signature = inspect.signature(FUNCTIONS[name])
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter
        if parameter.annotation == "bool":
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, f"{parameter} reads as a bare True"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_example_of_a_docstring_prints_what_it_says(name):
    function = FUNCTIONS[name]
    module = importlib.import_module(function.__module__)
    tests = doctest.DocTestFinder(recurse=False).find(function, name, module)
    assert any(test.examples for test in tests), f"{name} has no example that can run"
    for test in tests:
        report = []
        assert doctest.DocTestRunner(verbose=False).run(test, out=report.append).failed == 0, "".join(report)


@pytest.mark.parametrize("op", OPS)
def test_an_op_is_where_its_name_says(op):
    family, _, name = op.partition("_")
    sources = [ROOT / "csrc" / family / f"{name}.cpp", ROOT / "csrc" / "core" / f"{op}.cpp"]
    assert any(source.exists() and f'm.impl("{op}"' in source.read_text(encoding="utf-8") for source in sources)


@pytest.mark.parametrize("op", OPS)
def test_an_op_has_a_fake_kernel(op):
    assert registrations.find(f"gramian::{op}").fake_impl.kernel is not None


@pytest.mark.parametrize("op", OPS)
def test_an_op_is_called_directly_by_a_test_of_its_refusals(op):
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py")]
    bodies = [
        body
        for text in texts
        for body in re.findall(r"^def test_\w*refuses\w*\(.*?(?=^\S)", text + "\n#", re.MULTILINE | re.DOTALL)
    ]
    assert any(re.search(rf"torch\.ops\.gramian\.{op}\b", body) for body in bodies)
