"""The repository: imports go one way, the map is the tree, form is kept, the lock is whole."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "workbench"

# A package may import itself and what stands before it; the command line stands last.
ORDER = (
    "errors", "files", "fingerprint", "settings", "parameters", "lock", "artifacts", "decide",
    "effects", "evidence", "data", "nets", "train", "deploy", "predict", "steps", "status",
    "changes", "members", "notebook", "freshness", "run", "judgements", "reference", "triage",
    "show", "compare", "folds", "leaderboard", "machine", "web", "handover", "project",
    "benchmarks", "batch", "sweep", "cli", "__main__",
)  # fmt: skip


ALLOWED = {"run": {"show", "compare", "leaderboard"}}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "templates" not in path.parts)


def package_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imported(path: Path) -> set[str]:
    """List what a module imports, also inside functions, but not what only type checkers see."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not ast.unparse(node).startswith("if TYPE_CHECKING")]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def packages_imported(path: Path) -> set[str]:
    parts = [name.split(".") for name in imported(path) if name.startswith("workbench.")]
    return {part[1] for part in parts if part[1] in ORDER}


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    package = package_of(path)
    if package == "__init__":
        return
    late = {one for one in packages_imported(path) if ORDER.index(one) > ORDER.index(package)}
    # a run shows what it left and compares itself; both are imported when it does
    assert late - ALLOWED.get(package, set()) == set()


def test_every_package_has_its_place_in_the_order():
    assert {package_of(path) for path in modules()} - {"__init__"} == set(ORDER)


def test_a_teacher_is_trained_with_few_modules():
    """What somebody has to know of who follows one training, packages themselves left out."""
    program = (
        "import sys; from workbench.nets.teacher import build_teacher; "
        "from workbench.train.loop import fit; "
        "print(*(n for n in sys.modules if n.startswith('workbench.') "
        "and not hasattr(sys.modules[n], '__path__')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert 0 < len(done.stdout.split()) <= 25, done.stdout + done.stderr


def test_decide_imports_numpy_scipy_pandas_and_pydantic_only():
    allowed = ("workbench.decide", "workbench.errors", "workbench.files", "workbench.settings",
               "numpy", "scipy", "pandas", "pydantic", "__future__")  # fmt: skip
    for path in (PACKAGE / "decide").glob("*.py"):
        others = {
            name
            for name in imported(path)
            if not name.startswith(allowed) and name.split(".")[0] not in sys.stdlib_module_names
        }
        assert others == set(), path.name


@pytest.mark.parametrize("module", ["workbench.decide.thresholds", "workbench.data.audit.report",
                                    "workbench.show.plots", "workbench.batch",
                                    "workbench.deploy.verify", "workbench.machine",
                                    "workbench.train.phases", "workbench.artifacts"])  # fmt: skip
def test_what_needs_no_tensorflow_does_not_load_it(module):
    code = f"import sys, {module}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_importing_the_package_selects_legacy_keras_and_loads_nothing():
    code = (
        "import os, sys, workbench; "
        "sys.exit(os.environ['TF_USE_LEGACY_KERAS'] != '1' or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_tensorflow_before_the_workbench_is_refused_with_words():
    code = "import sys; sys.modules['tensorflow'] = sys; import workbench"
    environment = {"PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment,
                          capture_output=True, text=True)  # fmt: skip
    assert "Restart the kernel and import workbench first" in done.stderr


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_has_nothing_to_say(command):
    done = subprocess.run([sys.executable, "-m", "ruff", *command, "."], cwd=ROOT,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_no_module_is_named_after_nothing():
    names = {part for path in modules() for part in path.relative_to(ROOT).with_suffix("").parts}
    assert names & {"utils", "helpers", "common", "misc", "base", "core"} == set()


def test_the_package_does_not_print():
    calls = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in modules()
        if path.parts[-2:] != ("cli", "main.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    ]
    assert calls == []


def test_the_map_in_the_readme_is_the_tree():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    packages = {package_of(path) for path in modules()} - {"__init__", "__main__"}
    block = readme.split("## The map")[1].split("```")[1]
    assert {one for one in packages if not re.search(rf"\b{one}\b", block)} == set()


def test_the_words_are_those_of_the_field():
    """A newcomer has to guess nothing: no rooms, doors or strangers stand for code and people."""
    theatre = re.compile(
        r"foret[eo]l|stranger|workshop|climb_|rehears|\b(the|thin) house\b|\bdoors?\b"
        r"|\brooms? (of|that|may|and|is|are)\b",
        re.IGNORECASE,
    )
    texts = [
        *modules(),
        *ROOT.glob("*.md"),
        *ROOT.glob("notebooks/*.ipynb"),
        *ROOT.glob("docker/*"),
        *ROOT.glob("docs/*.md"),
    ]
    found = [f"{path.name}: {match[0]}" for path in texts
             for match in theatre.finditer(path.read_text(encoding="utf-8"))]  # fmt: skip
    assert found == []


def test_every_command_stands_in_the_changelog_or_readme():
    help_text = subprocess.run([sys.executable, "-m", "workbench", "--help"], cwd=ROOT,
                               capture_output=True, text=True).stdout  # fmt: skip
    commands = re.findall(r"^    ([a-z][a-z-]+)\b", help_text, re.MULTILINE)
    words = (ROOT / "README.md").read_text() + (ROOT / "CHANGELOG.md").read_text()
    assert commands
    assert [name for name in commands if name not in words] == []


def test_contributing_stays_short():
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 45


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-gpu.lock"])
def test_every_pin_of_the_lock_has_a_hash(lock):
    text = (ROOT / lock).read_text()
    blocks = re.split(r"\n(?=[a-z0-9])", text.strip())
    assert len(blocks) > 100
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_environment_yml_holds_the_pins_of_the_lock():
    sys.path.insert(0, str(ROOT / ".ci"))
    try:
        from environment import HEAD, pins
    finally:
        sys.path.pop(0)
    written = (ROOT / "environment.yml").read_text()
    assert written.startswith(HEAD), "run: make lock"
    found = re.findall(r'^      - "(.+)"$', written, re.MULTILINE)
    assert found == pins((ROOT / "requirements.lock").read_text()), "run: make lock"


def test_no_archive_is_ever_unpacked():
    """An archive may name places outside; datasets come as folders, weights are read in place."""
    unpacking = re.compile(r"extractall|unpack_archive|tarfile")
    assert [path.name for path in modules() if unpacking.search(path.read_text())] == []


def test_what_comes_from_git_is_pinned_to_a_commit():
    listed = [*ROOT.glob("*.toml"), *ROOT.glob("*.yml"), *ROOT.glob("*.lock")]
    found = [url for path in listed for url in re.findall(r"git\+https?://\S+", path.read_text())]
    assert found
    assert [url for url in found if not re.search(r"@[0-9a-f]{7,40}\b", url)] == []


def test_jupyterlab_listens_on_this_machine_only():
    assert "--ip=127.0.0.1" in (ROOT / "Makefile").read_text()
    ports = re.findall(r"ports: \[(.*)\]", (ROOT / "docker/compose.yaml").read_text())
    assert ports and all(port.startswith('"127.0.0.1:') for port in ports)


def test_no_token_is_switched_off():
    texts = [(ROOT / name).read_text() for name in ("Makefile", "docker/compose.yaml")]
    assert [text for text in texts if re.search(r"token=|password=|disable_check_xsrf", text)] == []


def test_no_file_names_a_registry_or_a_place_of_one_machine():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    forbidden = re.compile(r"pypi\.org|pythonhosted|registry\.npmjs|deb\.debian|/root/|/work/")
    wrong = [
        name
        for name in listed.stdout.splitlines()
        if not name.startswith("tests/data") and name != "tests/test_structure.py"
        and forbidden.search((ROOT / name).read_text(encoding="utf-8", errors="ignore"))
    ]  # fmt: skip
    assert wrong == []


def test_the_spanish_readme_keeps_step():
    """Prose is translated by hand; headings, commands, links and tables must not fall behind."""
    english, spanish = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.es.md")
    )
    marks = {
        "headings": r"^(#+) ", "links": r"\]\((?!README)(.*?)\)", "table rows": r"^(\| ?)",
        "commands": r"^((?:make|python -m|papermill|cd) [^#\n]*?) *(?:#|$)",
        "options": r"(--[a-z-]+)",
    }  # fmt: skip
    for name, mark in marks.items():
        found = [re.findall(mark, text, re.MULTILINE) for text in (english, spanish)]
        if name == "options":
            found = [sorted(set(one)) for one in found]
        assert found[0] == found[1], name


def test_every_file_that_the_pages_name_is_there():
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")):
        links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
        missing = [link for link in links if not (page.parent / link).is_file()]
        assert missing == [], page.name
