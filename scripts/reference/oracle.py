"""Finds the oracle folder (the scripts that call nnU-Net and the baseline's packages) and imports from it."""
import importlib
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BASELINE = REPOSITORY / "tests" / "golden" / "baseline"  # small models of the PANORAMA baseline, in the layout of weights/
DEFAULT = REPOSITORY.parent / "shared" / "oracle"


def add_option(parser):
    parser.add_argument("--oracle", metavar="DIR", type=Path, default=DEFAULT,
                        help="folder of the oracle scripts (default: ../shared/oracle beside the repository)")


def load(folder, *modules):
    """The named oracle modules; thread counts come from ORACLE_THREADS, which must be set before."""
    folder = Path(folder).resolve()
    if not (folder / "ref_panorama.py").is_file():
        raise SystemExit(f"{folder}: no ref_panorama.py; name the oracle folder with --oracle")
    sys.path.insert(0, str(folder))
    loaded = [importlib.import_module(m) for m in modules]
    return loaded[0] if len(loaded) == 1 else loaded
