#!/usr/bin/env python3
"""Make the demonstration weights of weights/panorama/ from seeds: phantoms, both datasets, training, export.

    train_demo.py --binary target/release/pdac-cascade --work WORK
    train_demo.py --binary … --work WORK --only again,validate,export      # some steps again

Steps: phantoms (render, crop), plan (and preprocess), pancreas, segmentation, head, multitask, again, validate, export. WORK gets
nnUNet_raw, nnUNet_preprocessed, nnUNet_results, and `models`: the exported folders as .pth with weights rounded to f16, for the
Python original. The log goes to weights/panorama/training.log. Under four hours on two cores with AMX; repeats on one machine with the
same number of processes (--processes), not bit for bit on another processor type.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from prepare import program

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
PANCREAS, LESION = "Dataset111_Phantom_Pancreas", "Dataset112_Phantom_MultiTask"
CONFIGURATION = "3d_fullres"
TRAINERS = {  # step: dataset, trainer
    "pancreas": (PANCREAS, "nnUNetTrainerPancreasDemonstration"),
    "segmentation": (LESION, "nnUNetTrainerMultiTaskSegmentationDemonstration"),
    "head": (LESION, "nnUNetTrainerMultiTaskHeadDemonstration"),
    "multitask": (LESION, "nnUNetTrainerMultiTaskDemonstration"),
    "again": (LESION, "nnUNetTrainerMultiTaskAgainDemonstration"),
}
EXPORTED = {"pancreas": "nnUNetTrainerPancreas", "again": "nnUNetTrainerMultiTask"}  # step: name that the weights ship under
STEPS = ("phantoms", "plan", *TRAINERS, "validate", "export")
PREPARATION = ["--margins", "25,25,15", "--crops", "2", "--shift", "10,10,6"]
NOTE = "Demonstration weights trained on synthetic phantoms. Unfit for patients."
NOTICE = """DEMONSTRATION WEIGHTS - NOT FOR PATIENTS

The networks in this folder are small ({parameters} parameters together) and were trained for a few hours on synthetic
phantoms, never on a scan of a person. They exist so that the program can be tried and tested out of the box. On
a real scan their output means nothing.

They are the two stages of the multi-task system, made from seeds by scripts/train/train_demo.py, which wrote training.log.
scripts/train/README.md tells how the same trainers are run on PANORAMA's public scans.
"""
LOGGED = re.compile(r"Epoch \d+$|(?:settings|Current learning rate|train_loss|val_loss|Pseudo dice|head|weights of|This split)\b")


class Log:
    """Lines for people, on the terminal and in a file."""

    def __init__(self, path):
        self.path = path

    def write(self, text):
        print(text, flush=True)
        with open(self.path, "a") as file:
            file.write(text + "\n")


def model_folder(work, step, trainer=None):
    dataset, trained = TRAINERS[step]
    return work / "nnUNet_results" / dataset / f"{trainer or trained}__nnUNetPlans__{CONFIGURATION}"


def set_environment(work):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[name] = str(work / name)
    os.environ |= {"nnUNet_extTrainer": str(HERE), "nnUNet_n_proc_DA": "0", "nnUNet_compile": "0", "CUDA_VISIBLE_DEVICES": "",
                   "OMP_WAIT_POLICY": "passive"}  # threads that spin while they wait cost more than they gain on a busy machine


def run(log, arguments):
    log.write("$ " + " ".join(Path(a).name if "/" in a else a for a in arguments))
    subprocess.run([sys.executable, str(HERE / arguments[0]), *arguments[1:]], check=True)


def make_phantoms(a, log):
    arguments = ["phantoms", "--binary", str(a.binary), "--seeds", *map(str, a.seeds), "--validation", str(a.validation),
                 "--raw", os.environ["nnUNet_raw"], "--pancreas", PANCREAS, "--lesion", LESION, "--processes", str(a.processes), "--overwrite"]
    run(log, ["prepare.py", *arguments, *PREPARATION])


def make_plans(a, log):
    for dataset, training in ((PANCREAS, "demonstration-pancreas"), (LESION, "demonstration-multitask")):
        run(log, ["plan.py", dataset, training, "--processes", str(a.processes)])


def train(a, log, step):
    """One trainer in processes of one thread each, without nnU-Net's prediction of the validation cases; `validate` does that."""
    import torch.multiprocessing
    log.write(TRAINERS[step][1])
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(train_share, (a.processes, step, Path(folder) / "store"), nprocs=a.processes)
    results = model_folder(a.work, step) / "fold_0"
    log.write(condensed(max(results.glob("training_log_*.txt"), key=lambda p: p.stat().st_mtime).read_text()))


def train_share(rank, processes, step, store):
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args
    torch.set_num_threads(1)
    dataset, name = TRAINERS[step]
    trainer = get_trainer_from_args(dataset, CONFIGURATION, 0, name, device=torch.device("cpu"))
    torch.distributed.init_process_group("gloo", store=torch.distributed.FileStore(str(store), processes), rank=rank, world_size=processes)
    trainer.join(rank)
    trainer.print_to_log_file(f"settings: Adam {trainer.first_rate} to {trainer.last_rate} in {trainer.num_epochs} epochs of "
                              f"{trainer.num_iterations_per_epoch} iterations, {processes} x {trainer.configuration_manager.batch_size} "
                              f"patches of {trainer.configuration_manager.patch_size}")
    trainer.run_training()
    torch.distributed.destroy_process_group()


def condensed(text):
    """One line per epoch of nnU-Net's log, without times and long digits."""
    lines = [re.sub(r"^[-\d]+ [\d:.]+: ", "", line).strip() for line in text.splitlines()]
    kept = [re.sub(r"np\.float\d+\(([^)]*)\)", r"\1", line) for line in lines if LOGGED.match(line)]
    kept = [re.sub(r"weights of .*/([^/]+)/fold", r"weights of \1/fold", line) for line in kept]
    return re.sub(r"\n(?!Epoch)", " | ", "\n".join(kept))


def validate(a, log):
    output = a.work / "validation.json"
    run(log, ["validate.py", str(model_folder(a.work, "again")), "--output", str(output)])
    log.write(output.read_text().strip())


def export(a, log):
    sys.path.insert(0, str(REPOSITORY / "scripts" / "reference"))
    from export_weights import export as export_folder
    target, size = a.weights / "panorama", 0
    for step, trainer in EXPORTED.items():
        dataset = TRAINERS[step][0]
        folder = f"{trainer}__nnUNetPlans__{CONFIGURATION}"
        files = export_folder(model_folder(a.work, step), target / dataset / folder, "0", "checkpoint_final", "f16", NOTE,
                              a.work / "models" / dataset / folder, trainer)
        size += sum(f.stat().st_size for f in files)
    (target / "DEMONSTRATION_WEIGHTS.txt").write_text(NOTICE.format(parameters=f"{size // 2 / 1e6:.1f} million"))
    log.write(f"{size} bytes of weights")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--binary", type=program, required=True, help="pdac-cascade, whose `phantom` makes the scans")
    ap.add_argument("--work", type=Path, required=True)
    ap.add_argument("--weights", type=Path, default=REPOSITORY / "weights", help="folder to write panorama/ into (default %(default)s)")
    ap.add_argument("--seeds", type=int, nargs=2, metavar=("FIRST", "COUNT"), default=(10000, 520))
    ap.add_argument("--validation", type=int, default=40, help="the last seeds, for validation (default %(default)s)")
    ap.add_argument("--processes", type=int, default=os.cpu_count(), help="of one thread each, which share the work (default: one per core)")
    ap.add_argument("--only", default=",".join(STEPS), help="steps, comma-separated (default: all)")
    a = ap.parse_args()
    a.work = a.work.resolve()
    steps = a.only.split(",")
    if unknown := set(steps) - set(STEPS):
        ap.error(f"--only: {', '.join(sorted(unknown))} is none of {', '.join(STEPS)}")
    set_environment(a.work)
    path = a.weights / "panorama" / "training.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    if steps[0] == STEPS[0]:
        path.unlink(missing_ok=True)
    log = Log(path)
    others = {"phantoms": make_phantoms, "plan": make_plans, "validate": validate, "export": export}
    for step in steps:
        start = time.monotonic()
        others[step](a, log) if step in others else train(a, log, step)
        log.write(f"{step}: {time.monotonic() - start:.0f} s\n")


if __name__ == "__main__":
    sys.exit(main())
