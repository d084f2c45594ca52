"""Run proofs by name, all without one: `python -m tests.prove planted_faults images=3000`."""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys

import tests.prove


def main(words: list[str]) -> None:
    knobs = dict(word.split("=", 1) for word in words if "=" in word)
    names = [word for word in words if "=" not in word and not word.startswith("-")]
    known = [module.name for module in pkgutil.iter_modules(tests.prove.__path__)]
    for name in names or [name for name in known if name != "__main__"]:
        proof = importlib.import_module(f"tests.prove.{name}")
        figures = proof.run(
            **{key: int(value) if value.isdigit() else value for key, value in knobs.items()}
        )
        text = json.dumps(figures) if "--json" in words else proof.table(figures)
        sys.stdout.write(f"{name}\n{text}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
