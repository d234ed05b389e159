"""3D meshes of hands, from images: make data, train, evaluate, predict.

`dne COMMAND --help` has the options of a command, `dne --version` says which release this is.
"""

import argparse
import codecs
import dataclasses
import errno
import io
import logging
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg, subcommand

from dne_lib import __version__
from dne_lib import config as settings
from dne_lib.config import (
    Config,
    DataConfig,
    Preset,
    config_from_dict,
    maps_first,
    preset,
    whole,
)
from dne_lib.files import InputError, claim_folder, message_of, read_json

# Torch takes seconds to import. So what needs it is imported where a command runs: help, and
# mistakes in what was typed, do without.
if TYPE_CHECKING:
    from dne_lib.model import DualNoiseNetwork

logger = logging.getLogger(__name__)

# What `dne train` renders where there is no data yet: some four minutes on two cores.
TRAIN_IMAGES, TEST_IMAGES = 4000, 400
VARIED_DATA = Path("data/varied")  # of README's commands
EVALUATED = 2000  # images at the end of `dne train`; `dne evaluate` takes them all
COARSE_STEPS = {"tiny": 30_000, "small": 8_000, "paper": 340_000}  # a million images or more
# With hands turned at will a network that knows nothing does not learn which hand is the right
# one (results/experiments.md); the paper's starts from ImageNet and does not need this.
UPRIGHT_STEPS = {"tiny": 12_000, "small": 3_000, "paper": 0}
UPRIGHT = 10.0  # degrees
LEGS = ("upright", "coarse", "full")  # folders of a run of two stages

# As the help names them.
Folder = Annotated[Positional[Path], arg(metavar="FOLDER")]
Network = Annotated[Positional[str], arg(metavar="NETWORK")]
# Without them something is chosen, which the comment of each says.
MaybePath = Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")]
MaybeInt = Annotated[int | None, arg(metavar="INT", help_behavior_hint="")]
MaybeFloat = Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="")]
MaybeBox = Annotated[str | None, arg(metavar="X,Y,W,H", help_behavior_hint="")]


@dataclass
class Synthesize:
    """Render the built-in data: an InterHand2.6M tree of the built-in hand."""

    root: Folder  # folder to write, or to go on writing
    train: int  # images to train on
    test: int  # images of other subjects to evaluate on
    val: int = 0  # images of yet other subjects, to calibrate on
    seed: int = 0
    workers: MaybeInt = None  # processes; default: one for each core
    varied: bool = False  # as photographs are: rooms, arms, things held, blur; or a plain studio

    def run(self) -> None:
        """Write the tree."""
        from dne_lib.synthetic.synthesize import synthesize

        synthesize(
            self.root,
            self.train,
            self.test,
            self.seed,
            val=self.val,
            workers=self.workers,
            varied=self.varied,
        )


@dataclass
class Train(Config):
    """Train, then evaluate on the split test and print the errors of every stage.

    Without --data.root the built-in data are rendered, unless they are there. The preset tiny
    trains the dual-noise modules on the coarse network that comes with the package. The others
    have no such weights: they train the coarse network first, unless --train.initial says where to
    start.
    """

    preset: Preset = "tiny"  # defaults of all that follows
    output: MaybePath = None  # folder of the run; default: the next free runs/PRESET
    resume: bool = False  # go on with the run in the output folder (default: the newest)
    from_scratch: bool = False  # train the coarse network too: the long road
    coarse_steps: int = 30_000  # of the coarse stage, where both are trained
    upright_steps: int = 12_000  # before them, at most ten degrees turned, the maps' losses first

    def run(self) -> None:
        """Render, train, evaluate, print."""
        if self.from_scratch and self.train.initial is not None:
            raise InputError("--from-scratch starts from no weights: leave --train.initial out")
        from accelerate import PartialState
        from accelerate.utils import broadcast_object_list, parse_flag_from_env

        from dne_lib.data.interhand import InterHand
        from dne_lib.evaluate import report
        from dne_lib.train import check_config

        config = Config(self.model, self.data, self.loss, self.train)
        check_config(config, self.resume)
        for name in ("coarse_steps", "upright_steps"):
            if (steps := getattr(self, name)) < 0:
                option = name.replace("_", "-")
                raise InputError(f"--{option} is {steps}: give 0 to leave that stage out, or more")
        # One of several where accelerate launched us, on CPUs if it was told so.
        # They wait while the first one gets the data ready.
        process = PartialState(
            cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=timedelta(hours=6)
        )
        output = self.output or run_folder(Path("runs"), self.preset, self.resume)
        (output,) = broadcast_object_list([output])  # they agree on a folder
        self.check_output(output)
        limit = None
        if process.is_main_process:
            render_missing(config.data.root)
            # Who opens a split first indexes it, which takes a minute and memory: one does it.
            InterHand(config.data.root, "train", config.model, config.data, augment=True)
            # What is needed at the end, so that nothing turns out to be missing days later.
            data = whole(config.data)
            test = InterHand(data.root, "test", config.model, data, augment=False)
            limit = EVALUATED if len(test) > EVALUATED else None
        process.wait_for_everyone()  # for the data
        run = self.both(config, output) if self.two_stages else self.one(config, output)
        process.destroy_process_group()
        if not process.is_main_process:
            return
        network, config = network_for(str(run))
        config.data.root = self.data.root
        output = run / Evaluate(str(run), limit=limit).name
        results = report(network, config, output, limit=limit, name=str(run))
        print(comparison(results, config, run))

    def check_output(self, output: Path) -> None:
        """What the folder of the run says, before any image is drawn for it.

        Raises:
            InputError: there is nothing to resume, or it was trained on other data; or a run that
                is not to be resumed.
        """
        from dne_lib.train import check_free

        if output.exists() and not output.is_dir():
            raise InputError(f"{output} is a file: give a folder for the run")
        if self.resume and not output.exists():
            raise InputError(f"there is no run {output} to resume: train without --resume")
        for run in [output / name for name in LEGS] if self.two_stages else [output]:
            if not self.resume:
                check_free(run)
            elif (run / "config.json").exists():
                kept = run / "config.json"
                root = config_from_dict(read_json(kept), kept).data.root
                if not self.data.root.exists() and root != self.data.root:
                    raise InputError(
                        f"{run} was trained on {root}, and there is no {self.data.root}: resume "
                        "with the options that it was begun with, --data.root first of all"
                    )

    @property
    def two_stages(self) -> bool:
        """Whether the coarse network has to be trained before the modules."""
        if self.train.stage == "coarse" or self.train.initial is not None:
            return False
        return self.from_scratch or self.preset != "tiny"

    def one(self, config: Config, output: Path) -> Path:
        """One stage, the full one of the preset tiny on the shipped coarse network."""
        from dne_lib.train import train

        if config.train.stage == "full" and config.train.initial is None:
            config.train = dataclasses.replace(config.train, initial="shipped-coarse")
        return train(config, output, self.resume)

    def both(self, config: Config, output: Path) -> Path:
        """The coarse network in output/upright and output/coarse, everything in output/full."""
        from accelerate.utils import broadcast_object_list

        from dne_lib.train import train

        coarse = dataclasses.replace(config.train, stage="coarse", initial_rate=1.0)
        turned = dataclasses.replace(config.data, rotation=min(UPRIGHT, config.data.rotation))
        legs = (
            (dataclasses.replace(coarse, steps=self.upright_steps), turned, maps_first()),
            (dataclasses.replace(coarse, steps=self.coarse_steps), config.data, config.loss),
            (config.train, config.data, config.loss),
        )
        run = None
        for name, (steps, data, loss) in zip(LEGS, legs, strict=True):
            if steps.steps:
                steps = dataclasses.replace(steps, initial=None if run is None else str(run))
                leg = dataclasses.replace(config, train=steps, data=data, loss=loss)
                # Interrupted in a later leg, a run has finished ones to resume, at once.
                begun = self.resume and (output / name / "config.json").exists()
                (begun,) = broadcast_object_list([begun])  # the first process may already write it
                run = train(leg, output / name, begun)
        assert run is not None
        return run


@dataclass
class Evaluate:
    """Measure a network: a table, metrics.json, pictures of meshes and maps.

    SH: images of one hand; IH: of two, interacting; All: both.
    """

    network: Network  # a run folder, a .safetensors file, or shipped[-coarse|-varied]
    # An InterHand2.6M tree; default: its own, or of shipped ones data/builtin or data/varied.
    data: MaybePath = None
    mano: MaybePath = None  # folder of MANO's files; default: the hand model it was trained with
    split: Literal["train", "val", "test"] = "test"
    annotation: Literal["H", "M", "H+M"] = "H+M"  # images annotated by humans, by a machine, all
    every: int = 1  # take each n-th frame of a sequence: 6 makes 5 fps of the 30 fps release
    max_fit_error: MaybeFloat = None  # mm; leave out hands whose MANO fit is off by more
    limit: MaybeInt = None  # number of images, evenly spaced; default: all
    output: MaybePath = None  # default: in the run folder (other weights: runs/NAME)
    markdown: bool = False  # print the tables as Markdown

    def run(self) -> None:
        """Evaluate and print."""
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit is {self.limit}: evaluate at least one image")
        from dne_lib.evaluate import protocol_summary, report, summary

        network, config = network_for(self.network, self.mano)
        config.data = dataclasses.replace(
            config.data,
            root=self.data or config.data.root,
            mano=self.mano or config.data.mano,
            annotation=self.annotation,
            every=self.every,
            max_fit_error=self.max_fit_error,
        )
        output = self.output or evaluations(self.network) / self.name
        self.check(output / "metrics.json")
        results = report(network, config, output, self.split, self.limit, name=self.network)
        print(summary(results, markdown=self.markdown))
        print("\n" + protocol_summary(results, self.markdown))

    def check(self, kept: Path) -> None:
        """An output folder that was given may hold the evaluation of something else.

        Raises:
            InputError: it does.
        """
        if self.output is None or not kept.exists():
            return
        before = read_json(kept)
        before = {**before.get("images_of", {}), **before}
        for option in ("network", "limit", "annotation", "every", "max_fit_error"):
            if before.get(option) != getattr(self, option):
                raise InputError(
                    f"{self.output} holds an evaluation of {option} {before.get(option)}, not "
                    f"{getattr(self, option)}: give another folder"
                )

    @property
    def name(self) -> str:
        """Of the folder: an evaluation of some images must not replace that of all."""
        parts, defaults = [f"evaluation-{self.split}"], Evaluate(self.network)
        for option in ("data", "annotation", "every", "max_fit_error", "limit"):
            value = getattr(self, option)
            if value != getattr(defaults, option):
                parts.append(value.resolve().name if option == "data" else f"{option}-{value}")
        return "-".join(parts)


@dataclass
class Calibrate:
    """Fit what predictions say of their errors, and keep it in the file of the weights.

    The images are those of the split val: not trained on, and not those that errors are reported
    on. To render some: dne synthesize FOLDER --train 0 --test 0 --val 500
    """

    network: Network  # a run folder or a .safetensors file
    data: MaybePath = None  # an InterHand2.6M tree; default: the one it was trained on
    mano: MaybePath = None  # folder of MANO's files; default: the hand model it was trained with
    limit: int | None = 1000  # number of images, evenly spaced

    def run(self) -> None:
        """Measure, fit, print, write."""
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit is {self.limit}: calibrate on at least one image")
        from dne_lib.uncertainty import calibrate
        from dne_lib.weights import SHIPPED, save_calibration

        if self.network in SHIPPED:
            raise InputError(
                f"{self.network} is part of the package and comes calibrated: copy "
                f"{SHIPPED[self.network]}, and calibrate the copy"
            )
        network, config = network_for(self.network, self.mano)
        config.data = dataclasses.replace(
            config.data,
            root=self.data or config.data.root,
            mano=self.mano or config.data.mano,
        )
        fits, table = calibrate(network, config, self.limit)
        print(table)
        print(f"kept in {save_calibration(self.network, fits)}")


@dataclass
class Predict:
    """Recover the hands of a photograph: an overlay and the meshes as OBJ and GLB."""

    images: Annotated[  # JPEG, PNG …
        Positional[tuple[Path, ...]],
        arg(metavar="IMAGE [IMAGE ...]", help_behavior_hint="(required)"),
    ]
    box: MaybeBox = None  # pixels around the hands of the image; default: find them
    network: str = "shipped-varied"  # a run folder, a .safetensors file, or shipped[-coarse]
    mano: MaybePath = None  # folder of MANO's files; default: the hand model it was trained with
    output: MaybePath = None  # of several images: of their folders; default: predictions/NAME

    def run(self) -> None:
        """Predict and write."""
        if not self.images:
            raise InputError("give an image")
        several = len(self.images) > 1
        if several and self.box is not None:
            raise InputError("a box is of one image only")
        names = Counter(image.stem for image in self.images)
        if twice := [name for name, count in names.items() if count > 1]:
            raise InputError(f"several images are called {twice[0]}: predict them one by one, each "
                             "with an --output of its own")  # fmt: skip
        from dne_lib.predict import certainty, parse_box, predict, save

        box = parse_box(self.box) if self.box is not None else None
        network, config = network_for(self.network, self.mano)
        failed = []
        for image in self.images:
            output = self.output
            if several or output is None:
                output = (output or Path("predictions")) / image.stem
            try:
                found = predict(network, config, image, box)
                files = save(found, output, of=str(image.resolve()))
            except InputError as error:
                if not several:
                    raise
                failed.append(image)
                logger.warning("%s: %s", image, error)
                continue
            for path in files:
                print(path)
            print(certainty(found), flush=True)
        if failed:
            raise InputError(f"{len(failed)} of {len(self.images)} images failed, see above")


@dataclass
class Ablate:
    """Train and evaluate a plan's variants with several seeds; tables of means and spreads.

    Stopped, the same command goes on; started several times at once, it shares the work among
    GPUs (CUDA_VISIBLE_DEVICES) or cores (OMP_NUM_THREADS=1). The plans are in scripts/plans.
    """

    plan: Annotated[Positional[Path], arg(metavar="PLAN")]  # a YAML file
    runs: Path = Path("runs/ablations")  # plans that share a variant may share its runs
    output: Path = Path("runs/ablations/results")  # for PLAN.json, PLAN.md, a picture of each table

    def run(self) -> None:
        """Run what is missing, and print."""
        from dne_lib.ablate import ablate, results_page

        print(results_page(ablate(self.plan, self.runs, self.output), self.plan.stem))


@dataclass
class Check:
    """Say what is there of a data set, draw its labels over its images; make MANO's files fast."""

    data: MaybePath = None  # an InterHand2.6M tree
    mano: MaybePath = None  # folder of MANO_RIGHT and MANO_LEFT; .npz are written beside .pkl
    output: Path = Path("check")  # folder of the pictures
    seed: int = 0  # another one draws other images

    def run(self) -> None:
        """Check and print."""
        if self.mano is None and self.data is None:
            raise InputError("nothing to check: give a data folder as --data, MANO's as --mano")
        from dne_lib.check import check_data
        from dne_lib.mano_files import check_mano

        for line in check_mano(self.mano) if self.mano else ():
            print(line)
        for line in check_data(self.data, self.mano, self.output, self.seed) if self.data else ():
            print(line, flush=True)


@dataclass
class Export:
    """Pack a split, or some of it, into tar files (WebDataset) that train as the tree does."""

    output: Folder  # folder to write; give it as --data.root afterwards
    data: Path  # an InterHand2.6M tree
    split: Literal["train", "val", "test"] = "train"
    annotation: Literal["H", "M", "H+M"] = "H+M"  # images annotated by humans, by a machine, all
    hand_type: Literal["SH", "IH", "All"] = "All"  # images of one hand, of two
    every: int = 1  # take each n-th frame of a sequence: 6 makes 5 fps of the 30 fps release
    shard_images: int = 2000  # images in one tar file

    def run(self) -> None:
        """Export and print."""
        from dne_lib.data.shards import export

        data = DataConfig(annotation=self.annotation, hand_type=self.hand_type, every=self.every)
        files = export(self.data, self.split, self.output, data, self.shard_images)
        size = sum(file.stat().st_size for file in files)
        print(f"{len(files)} tar files, {size / 2**20:,.0f} MiB, in {self.output / self.split}")


def network_for(source: str, mano: Path | None = None) -> "tuple[DualNoiseNetwork, Config]":
    """A network on this machine's device, and its configuration with all of its data.

    Args:
        source: see `weights.find_weights`. What is shipped was trained on other machines: its data
            are those of `make train`, or in VARIED_DATA.
        mano: folder of MANO's files; None: the hand model it was trained with.
    """
    from dne_lib.evaluate import default_device
    from dne_lib.weights import SHIPPED, load_network

    network, config = load_network(source, mano)
    config.data = whole(config.data)
    if source in SHIPPED:
        config.data.root = VARIED_DATA if source == "shipped-varied" else DataConfig().root
    return network.to(default_device()), config


def evaluations(source: str) -> Path:
    """The folder of a network's evaluations: that of its run, or else one in runs/ of its own.

    Raises:
        InputError: there is no such network, or the folder is another network's.
    """
    from dne_lib.weights import SHIPPED, find_weights

    weights = find_weights(source)
    if (weights.parent / "config.json").exists():
        return weights.parent
    name, of = (source, source) if source in SHIPPED else (weights.stem, str(weights.resolve()))
    claim_folder(Path("runs") / name, "evaluations", of)
    return Path("runs") / name


def render_missing(root: Path) -> None:
    """Render the built-in data into its default folder, unless it is already whole there."""
    if root != DataConfig().root:
        return
    from dne_lib.data.index import FILES
    from dne_lib.synthetic.synthesize import synthesize

    annotations = [
        root / "annotations" / split / f"InterHand2.6M_{split}_{name}.json"
        for split in ("train", "test")
        for name in FILES
    ]
    if not all(path.exists() for path in annotations):
        logger.info("rendering the built-in data into %s", root)
        synthesize(root, TRAIN_IMAGES, TEST_IMAGES, seed=0)


def run_folder(parent: Path, name: str, resume: bool) -> Path:
    """The next free of name, name-2, name-3 …; to resume, the last one that is there."""
    taken = {1: parent / name} if (parent / name).exists() else {}
    for folder in parent.glob(f"{name}-*"):
        number = folder.name.removeprefix(f"{name}-")
        if number.isdecimal():
            taken[int(number)] = folder
    last = max(taken, default=0)
    if not resume:
        return parent / f"{name}-{last + 1}" if last else parent / name
    if not taken:
        raise InputError(f"there is no run {parent / name} to resume: train without --resume")
    return taken[last]


def comparison(results: dict, config: Config, run: Path) -> str:
    """The table of a run, with a row of the shipped full network where it can be compared.

    On varied images that is the one that was trained on such.
    """
    from dne_lib.data.subsets import is_varied
    from dne_lib.evaluate import HEADER, counted, floor_row, format_table, report, table_rows
    from dne_lib.weights import SHIPPED

    rows = [*table_rows(results), floor_row(results)]
    name = "shipped-varied" if is_varied(config.data.root) else "shipped"
    if config.data.mano is None and SHIPPED[name].exists():
        network, shipped = network_for(name)
        shipped.data.root = config.data.root
        output = run / "evaluation-test-shipped"
        results_shipped = report(network, shipped, output, limit=EVALUATED, name=name)
        rows += table_rows(results_shipped, prefix="shipped network, ", last=True)
    return f"{format_table(HEADER, rows)}\n\n{counted(results)}"


def commands(name: Preset):
    """The union of all commands, with the preset's values as the defaults of `train`."""
    values = {f.name: getattr(preset(name), f.name) for f in dataclasses.fields(settings.Config)}
    default = Train(
        **values, preset=name, coarse_steps=COARSE_STEPS[name], upright_steps=UPRIGHT_STEPS[name]
    )
    return (
        Annotated[Synthesize, subcommand("synthesize")]
        | Annotated[Train, subcommand("train", default=default)]
        | Annotated[Evaluate, subcommand("evaluate")]
        | Annotated[Calibrate, subcommand("calibrate")]
        | Annotated[Predict, subcommand("predict")]
        | Annotated[Ablate, subcommand("ablate")]
        | Annotated[Check, subcommand("check")]
        | Annotated[Export, subcommand("export")]
    )


def _give_up_output() -> None:
    """Send what is left to print nowhere: Python would try to write it at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a mistake in what was given is one line on stderr and exit code 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if sys.stdout is None:  # closed before we began
        sys.stdout = io.StringIO()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files need not be text; elsewhere a letter that there is not becomes "?".
        utf8 = codecs.lookup(sys.stdout.encoding).name == "utf-8"
        sys.stdout.reconfigure(errors="surrogateescape" if utf8 else "replace")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("dne_lib").setLevel(logging.INFO)  # others' would break the progress bars
    # The preset decides the defaults of every other option, so it is read before them.
    first = argparse.ArgumentParser(prog="dne", add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="tiny", nargs="?")
    first.add_argument("--version", action="version", version=f"dne {__version__}")
    name = first.parse_known_args(arguments)[0].preset
    known: Any = commands(name if name in COARSE_STEPS else "tiny")
    try:
        try:
            tyro.cli(known, args=arguments, prog="dne", description=__doc__).run()
        finally:
            sys.stdout.flush()
    except InputError as error:
        print(f"dne: error: {message_of(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "dne: interrupted; the same command goes on (train: with --resume; evaluate and "
            "calibrate begin anew)",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:
        # Who read our output (head, less) has gone.
        _give_up_output()
        return 141  # as a shell has it of a program that SIGPIPE ended
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print("dne: error: the disk is full: free space, or write elsewhere", file=sys.stderr)
        _give_up_output()
        return 2
    return 0
