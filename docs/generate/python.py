"""The page of what `potstill` offers to Python, read from the source, so that nothing has to be imported."""

from __future__ import annotations

import ast
from pathlib import Path

import potstill
from docs.generate.markdown import docstring, fenced

GROUPS: tuple[tuple[str, tuple[tuple[str, tuple[str, ...]], ...]], ...] = (
    (
        "Running",
        (
            ("potstill.runner", ("run", "Result")),
            ("potstill.models", ("Model",)),
            ("potstill.progress", ("Progress", "Bar")),
        ),
    ),
    ("Writing a plugin", (("potstill.plugin", ("Plugin", "PluginConfig", "LossTerm")),)),
    (
        "What hooks are given",
        (
            ("potstill.stage", ("Stage",)),
            ("potstill.step", ("Step", "Pass", "Update", "Isolated")),
            ("potstill.observe", ("Outputs",)),
            ("potstill.batch", ("Batch", "Unit")),
            ("potstill.data.random", ("RowRandom",)),
            ("potstill.export", ("ExportJob", "Artifact")),
        ),
    ),
    (
        "Features",
        (("potstill.features", ("Hidden", "QKV", "Scores", "Attention", "Projections", "LOGITS", "POOLED")),),
    ),
    ("Units", (("potstill.batch", ("EXAMPLE", "TOKEN", "TARGET", "BATCH")),)),
    ("Tasks", (("potstill.tasks", ("Task", "Prediction")),)),
    (
        "Errors",
        (
            (
                "potstill.errors",
                (
                    "PotstillError",
                    "UserError",
                    "RecipeError",
                    "DataError",
                    "ModelError",
                    "PluginError",
                    "ShapeError",
                    "TrainingError",
                    "Interrupted",
                ),
            ),
        ),
    ),
)
"""Heading → (module, names)."""

ENGINES_PART = "# what the engine uses"
"""The comment after which a class's members are not for plugins."""

INTRODUCTION = """\
# Python

Names that `import potstill` offers are written `potstill.run`; others stand in the module that is named. Importing
`potstill` loads neither torch nor transformers: these come with the first name that needs them.
"""


def page() -> str:
    """The whole page."""
    text = INTRODUCTION
    for heading, modules in GROUPS:
        text += f"\n## {heading}\n"
        for module, names in modules:
            text += "".join(f"\n{_entry(module, name)}" for name in names)
    return text


def _entry(module: str, name: str) -> str:
    source = _source(module)
    tree = ast.parse(source)
    for at, node in enumerate(tree.body):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _described_class(module, node, source.splitlines())
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return _heading(module, name) + _described(node)
        if isinstance(node, ast.Assign | ast.AnnAssign) and name in _targets(node):
            return f"{_heading(module, name)}{fenced(ast.unparse(node), 'python')}\n{_string_after(tree.body, at)}"
    raise LookupError(f"{module} has no {name}")


def _heading(module: str, name: str) -> str:
    return f"### {f'potstill.{name}' if name in potstill.__all__ else f'{module}.{name}'}\n\n"


def _described(node: ast.FunctionDef) -> str:
    return f"{fenced(_signature(node), 'python')}\n{docstring(ast.get_docstring(node))}"


def _described_class(module: str, node: ast.ClassDef, lines: list[str]) -> str:
    fields = _fields(node) if _is_data(node) else ""
    text = _heading(module, node.name) + (f"{fenced(fields, 'python')}\n" if fields else "")
    return text + docstring(ast.get_docstring(node)) + "".join(f"\n{part}" for part in _members(node, lines))


def _members(node: ast.ClassDef, lines: list[str]) -> list[str]:
    """Public methods and described attributes, up to where the class turns to the engine."""
    found = []
    for at, member in enumerate(node.body):
        if any(line.strip() == ENGINES_PART for line in lines[node.lineno : member.lineno]):
            break
        if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
            found.append(f"#### {node.name}.{member.name}\n\n{_described(member)}")
        elif isinstance(member, ast.AnnAssign) and (told := _string_after(node.body, at)):
            head = f"#### {node.name}.{ast.unparse(member.target)}"
            found.append(f"{head}\n\n{fenced(ast.unparse(member), 'python')}\n{told}")
    return found


def _is_data(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(mark) for mark in node.decorator_list) or "NamedTuple" in map(
        ast.unparse, node.bases
    )


def _fields(node: ast.ClassDef) -> str:
    lines = [ast.unparse(part) for part in node.body if isinstance(part, ast.AnnAssign)]
    return "\n".join(line for line in lines if not line.startswith("_"))


def _signature(node: ast.FunctionDef) -> str:
    """The head of a function; one argument a line where it is long."""
    marks = [f"@{mark}\n" for mark in map(ast.unparse, node.decorator_list) if mark in ("property", "contextmanager")]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    arguments = _arguments(node.args)
    head = f"def {node.name}({', '.join(arguments)}){returns}"
    if len(head) > 100:
        head = f"def {node.name}(\n    " + ",\n    ".join(arguments) + f",\n){returns}"
    return "".join(marks) + head


def _arguments(arguments: ast.arguments) -> list[str]:
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
    found = [_argument(one, value) for one, value in zip(plain, defaults, strict=True)]
    if arguments.vararg or arguments.kwonlyargs:
        found.append(f"*{ast.unparse(arguments.vararg) if arguments.vararg else ''}")
    found += [_argument(one, value) for one, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    return found + ([f"**{ast.unparse(arguments.kwarg)}"] if arguments.kwarg else [])


def _argument(argument: ast.arg, value: ast.expr | None) -> str:
    return ast.unparse(argument) + (f" = {ast.unparse(value)}" if value is not None else "")


def _source(module: str) -> str:
    # Read, not imported: some of these modules import torch.
    path = Path(potstill.__file__).parent.joinpath(*module.split(".")[1:])
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text("utf-8")


def _targets(node: ast.Assign | ast.AnnAssign) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _string_after(body: list[ast.stmt], at: int) -> str:
    """The string that stands below an assignment and describes it."""
    after = body[at + 1] if at + 1 < len(body) else None
    if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
        return docstring(after.value.value)
    return ""
