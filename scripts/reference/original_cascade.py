#!/usr/bin/env python3
"""The Python original as it would run for a patient: ref_panorama.py without the copies that it keeps for comparisons.

    original_cascade.py ORACLE_FOLDER <options of ref_panorama.py>

Left out are the intermediates under debug/, the second segmentation, and stage 1's probabilities: work that the published
container does not do. The results are the same. The last line on standard error is a JSON object with the seconds that
passed until the imports were done, in stage 1, in stage 2, and in all (without the interpreter's own start).
"""
import json
import sys
import time
from pathlib import Path

started = time.perf_counter()
sys.path.insert(0, sys.argv.pop(1))

import ref_panorama  # noqa: E402

seconds = {"imports": time.perf_counter() - started}
run_case, load_predictor = ref_panorama.run_case, ref_panorama.load_predictor
stage_started = [0.0]


def load_timed(*args, **options):
    stage_started[0] = time.perf_counter()
    return load_predictor(*args, **options)


def run_lean(predictor, files, out, *args, **options):
    stage = Path(out).name
    done = run_case(predictor, files, out, *args, **(options | {"debug": False, "argmax_logits": False, "npz": stage == "stage2"}))
    seconds[stage] = time.perf_counter() - stage_started[0]
    return done


ref_panorama.run_case, ref_panorama.load_predictor = run_lean, load_timed
code = ref_panorama.main()
seconds["all"] = time.perf_counter() - started
print(json.dumps(seconds), file=sys.stderr)
sys.exit(code)
