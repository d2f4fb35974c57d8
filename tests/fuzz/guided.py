"""Fuzzing guided by coverage: `python -m tests.fuzz.guided TARGET [option of libFuzzer ...]`.

Needs atheris, which nothing else does: `pip install .[fuzz]`. New inputs go to the folder given after the target,
if one is; those of the corpus are where it begins. An input that a target raises on is named at the end.
"""

import os
import sys


def main() -> None:
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not here: pip install .[fuzz]")
    with atheris.instrument_imports(include=["gkfs"]):  # all of Python would take half a minute
        from tests.fuzz.targets import CORPUS, TARGETS
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"which target? {', '.join(TARGETS)}")
    name, *options = sys.argv[1:]
    folders = [option for option in options if os.path.isdir(option)]
    atheris.Setup([sys.argv[0], *options, *([] if folders else [str(CORPUS / name)])], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
