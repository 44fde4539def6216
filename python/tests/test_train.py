"""Training stands above the rest of the package: imports go one way, and nothing else needs PyTorch.
Tests of training itself are in ``training/tests``."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import diffmoe

PACKAGE = Path(diffmoe.__file__).parent
OTHERS = [path for path in sorted(PACKAGE.rglob("*.py")) if "train" not in path.relative_to(PACKAGE).parts]
COMMANDS = ("", ".evaluate", ".export", ".campaign", ".compare", ".sample")


def imported(path: Path) -> set[str]:
    """Modules that a file imports, anywhere in it, with names relative to the package resolved."""
    here = ("diffmoe", *path.relative_to(PACKAGE).with_suffix("").parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*here[: len(here) - node.level]] if node.level else []
            base += [node.module] if node.module else []
            found |= {".".join([*base, alias.name]) for alias in node.names}
    return found


def test_nothing_else_imports_it():
    wrong = {
        path.name: names
        for path in OTHERS
        if (names := {name for name in imported(path) if f"{name}.".startswith(("diffmoe.train.", "torch."))})
    }
    assert len(OTHERS) > 20 and not wrong
    below = imported(PACKAGE / "train" / "__init__.py") | imported(PACKAGE / "train" / "export.py")
    assert "diffmoe.train.moe.to_official" in below, "the function finds relative imports"


def test_the_extra_lists_what_the_message_asks_for():
    needed = {"PIL": "pillow"}
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    (extra,) = (line for line in project.splitlines() if line.startswith("train = "))
    tree = ast.parse((PACKAGE / "train" / "__init__.py").read_text(encoding="utf-8"))
    (modules,) = (ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign))
    assert len(modules) == 4 and all(f'"{needed.get(module, module)}>=' in extra for module in modules)


def python(*arguments, folder, without=("torch",), having=()):
    """Runs Python with some packages hidden, and with empty modules in place of others."""
    block = "".join(f"sys.modules[{name!r}] = None\n" for name in without)
    for name in having:
        (folder / f"{name}.py").touch()
    (folder / "sitecustomize.py").write_text(f"import sys\n{block}", encoding="utf-8")
    path = os.pathsep.join([str(folder), str(PACKAGE.parent)])
    return subprocess.run([sys.executable, *arguments], env=dict(os.environ, PYTHONPATH=path), capture_output=True, text=True)


def test_everything_else_works_without_pytorch(tmp_path):
    parts = (path.relative_to(PACKAGE.parent).with_suffix("").parts for path in OTHERS)
    names = [".".join(part for part in of if part != "__init__") for of in parts]
    loaded = "; ".join(f"import {name}" for name in names)
    done = python("-c", f"import sys; {loaded}; assert sys.modules['torch'] is None; print('fine')", folder=tmp_path)
    assert done.stdout == "fine\n", done.stderr


NEEDED = ("torch", "tokenizers", "PIL", "tqdm")


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_say_what_is_missing(tmp_path, command):
    done = python("-m", f"diffmoe.train{command}", folder=tmp_path, without=NEEDED)
    assert done.returncode == 1
    names = "PyTorch, tokenizers, Pillow and tqdm"
    assert done.stderr == f"{names} are missing; install what training needs with pip install 'diffmoe[train]'\n"


def test_an_import_says_what_is_missing(tmp_path):
    done = python("-c", "import diffmoe.train.export", folder=tmp_path, having=NEEDED[1:])
    assert "ImportError: PyTorch is missing; install" in done.stderr
