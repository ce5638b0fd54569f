#!/usr/bin/env python3
"""Tests of gpu_report.py, which needs nothing but Python: test_gpu_report.py"""
import json
import unittest

import gpu_report as g


def line(second, message, **fields):
    return json.dumps({"timestamp": f"2026-01-01T00:00:{second:09.6f}Z", "level": "INFO", "message": message} | fields)


OUR_LOG = "\n".join([
    "a line that is no JSON",
    line(0, "computing on GPU 0: a device", threads=2, precision="f16"),
    line(0, "started", stage="prepare"), line(1, "started", stage="pancreas"), line(1.5, "preprocessed"), line(1.75, "predicted"),
    line(2, "started", stage="lesion"), line(2.1, "preprocessed"), line(2.5, "preprocessed"),
    line(3, "tiles", stage="lesion", done=1, total=20), line(6, "predicted"), line(6.25, "exported"), line(6.5, "started", stage="candidates"),
    *(line(7, "finished", stage=stage, seconds=s, peak_mb=10.0) for stage, s in (("prepare", 0.25), ("low resolution", 0.5), ("pancreas", 1.0),
                                                                               ("lesion", 4.5), ("total", 7.0))),
    line(7, "done", likelihood=0.5, candidates=1, threads=2, arithmetic="cuda f16", gpu_peak_mb=129),
])
INSPECTED = """recipe   weights/panorama/pipeline.json

pancreas: somewhere
  encoder.stages.0.0.convs.0       conv 1×3×3 + norm  24×48×48×1                         -> 24×48×48×8             9.000 GFLOP     1.99 MB  at 0.00 MB

lesion: elsewhere
  checkpoint     checkpoint_final, folds 0 1
  encoder.stages.0.0.convs.0       conv 1×3×3 + norm  16×48×64×1                         -> 16×48×64×8             0.500 GFLOP     2.00 MB  at 0.00 MB
  decoder.stages.0.convs.0         conv 3×3×3 + norm  8×12×16×24 ++ 8×12×16×24           -> 8×12×16×24             1.000 GFLOP     4.00 MB  at 0.30 MB
  total 1.500 GFLOP, a buffer of 4.7 MB
"""


def run(wall, tiles_s, **changes):
    return {"wall_s": wall, "cpu_s": wall, "peak_mib": 100.0, "device_mb": None, "counted_mb": 50.0, "tiles_s": tiles_s,
            "fastest_tiles_s": tiles_s, "stages": {"first stage": 1.0, "lesion: export": None}} | changes


class Logs(unittest.TestCase):
    def test_our_stages(self):
        said = g.our_run(OUR_LOG, 8.0)
        expected = {"start, imports and weights": 1.25, "first stage": 1.0, "lesion: preprocessing": 0.5, "lesion: networks": 3.5,
                    "lesion: export": 0.25, "reading, candidates, writing": 1.5}
        self.assertEqual({k: round(v, 6) for k, v in said["stages"].items()}, expected)
        self.assertEqual((said["gpu_peak_mb"], said["tiles"], said["arithmetic"]), (129, 20, "cuda f16"))

    def test_our_stages_on_the_cpu(self):
        said = g.our_run(OUR_LOG.replace('"predicted"', '"predicted and exported"').replace('"exported"', '"else"'), 8.0)
        self.assertEqual((round(said["stages"]["lesion: networks"], 6), said["stages"]["lesion: export"], said["together"]), (3.5, 0.0, True))

    def test_missing_events_are_not_guessed(self):
        said = g.our_run(OUR_LOG.replace('"predicted"', '"else"'), 8.0)
        self.assertIsNone(said["stages"]["lesion: networks"])
        self.assertIsNone(said["stages"]["reading, candidates, writing"])

    def test_log_without_an_end(self):
        with self.assertRaises(SystemExit):
            g.our_run(OUR_LOG.replace('"done"', '"else"'), 8.0)

    def test_original(self):
        stage = {"load": 1.0, "preprocess": 2.0, "networks": 3.0, "export": 4.0, "tiles": 5, "mirrorings": 8, "fold_seconds": [3.0]}
        log = "noise\n" + json.dumps({"imports": 2.0, "all": 25.0, "stage1": stage, "stage2": stage, "allocated_mb": None, "reserved_mb": 7.0})
        said = g.original_run(log, 26.0)
        self.assertEqual(list(said["stages"].values()), [5.0, 9.0, 2.0, 3.0, 4.0, 3.0])
        self.assertEqual(sum(said["stages"].values()), 26.0)


class Roofline(unittest.TestCase):
    def test_steps(self):
        steps = g.plan_steps(INSPECTED)
        self.assertEqual(steps, [{"gflop": 0.5, "activation_mb": 2.0, "weights": 72}, {"gflop": 1.0, "activation_mb": 4.0, "weights": 27 * 48 * 24}])

    def test_no_steps(self):
        with self.assertRaises(SystemExit):
            g.plan_steps(INSPECTED, "else")

    def test_bounds(self):
        steps = [{"gflop": 1.0, "activation_mb": 4.0, "weights": 1_000_000}, {"gflop": 10.0, "activation_mb": 4.0, "weights": 0}]
        roof = g.roofline(steps, 2, 1e12, 1e9)  # 4 MB at 1 GB/s bound the first step, 10 GFLOP at 1 TFLOP/s the second
        self.assertEqual((roof["gflop"], roof["mb"], round(roof["least_s"], 9)), (11.0, 6.0, 0.014))
        s = g.shares(roof, 0.028, 1e12, 1e9)
        self.assertAlmostEqual(s["of_roofline"], 0.5)
        self.assertAlmostEqual(s["of_products"], 11 / 28)
        self.assertAlmostEqual(s["of_copying"], 6 / 28)


class Plan(unittest.TestCase):
    def test_folds(self):
        warm_up = [{"wall_s": 20.0, "network_s": 10.0}, {"wall_s": 5.0, "network_s": 2.0}]
        self.assertEqual([g.choose_folds(warm_up, left, 5) for left in (1, 25, 37, 73, 1000)], [1, 1, 2, 5, 5])


class Tables(unittest.TestCase):
    def test_rows(self):
        lines = g.table([run(10.0, 2.0), run(12.0, 2.0), run(11.0, 2.0)], [run(1.0, 8.0), run(2.0, 8.0), run(1.0, 8.0)])
        self.assertIn("| whole process, s | 11.00 | 1.00 | 10.00 |", lines)
        self.assertIn("| lesion networks, tiles a second | 2.0 | 8.0 | 4.00 |", lines)
        self.assertIn("| lesion: export, s | not measured | not measured |  |", lines)
        self.assertIn("| device memory above idle, peak, MB | not measured | not measured |  |", lines)
        self.assertEqual({text.count("|") for text in lines}, {5})

    def test_roofline_rows(self):
        roof, ceilings = {"gflop": 10.0, "mb": 4.0, "least_s": 0.01}, {"flops": 1e12, "bandwidth": 1e9, "matrix": 8192, "type": "float16"}
        lines = g.roofline_lines(roof, ceilings, {"a": 0.02, "b": None})
        self.assertEqual(lines[-2], "| a | 20.00 | 0.5 | 50.0% | 0.2 | 20.0% | 50.0% |")
        self.assertEqual(lines[-1].count(g.NOT_MEASURED), 6)


class Section(unittest.TestCase):
    TEXT = "# Measurements\n\n## One\n\nfirst\n\n## On a GPU\n\nold\n\n### deeper\n\n## Last\n\nend\n"

    def test_replaced(self):
        new = g.replace_section(self.TEXT, "On a GPU", "new\n")
        self.assertEqual(new, "# Measurements\n\n## One\n\nfirst\n\n## On a GPU\n\nnew\n\n## Last\n\nend\n")
        self.assertEqual(g.replace_section(new, "On a GPU", "new"), new)

    def test_appended_once(self):
        new = g.replace_section("# Measurements\n", "On a GPU", "new")
        self.assertEqual(new, "# Measurements\n\n## On a GPU\n\nnew\n")
        self.assertEqual(g.replace_section(new, "On a GPU", "new"), new)


if __name__ == "__main__":
    unittest.main()
