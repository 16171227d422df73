"""Data sets: arrays in memory, from files whose formats are in formats.py, or made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from fastcrc import crc32

from qafel_mpi.kernels.keys import Stream, derive
from qafel_mpi.tasks import arrays, formats, text
from qafel_mpi.tasks.celeba import read_celeba
from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.errors import DataError
from qafel_mpi.tasks.stdlib_text import read_stdlib
from qafel_mpi.tasks.targets import KINDS, Signature, Targets, check_targets, outputs_of

# Where Debian's dataset-fashion-mnist installs its files.
SYSTEM_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
DIGITS_FILE = "datasets/data/digits.csv.gz"
SPLIT_SEED = 0  # the split is a part of the data set, not of a run

_KINDS = {
    "x": arrays.numbers,
    "test_x": arrays.numbers,
    "y": arrays.labels,
    "test_y": arrays.labels,
    "groups": arrays.codes,
}


def require_examples(where: str, x: np.ndarray, y: np.ndarray) -> None:
    """Raises DataError where there is no example, or not a label for each."""
    examples, labels = (len(array) if array.ndim else 0 for array in (x, y))
    if examples != labels or not examples:
        raise DataError(f"{where}: {examples} examples and {labels} labels")


@dataclass(frozen=True)
class Dataset:
    """Training and test examples. x: (n, *shape), floats, uint8 pixels, or tokens; y: what targets.py says.

    classes: the number of outputs that a model has; may be left out for labels and values, whose y tells.
    A model sees x·scale + shift: images stay bytes in memory, and every batch is scaled when it is taken.
    vocabulary: x are tokens, integers below it of any type, and a model sees them as int64.
    bytes_per_token: where targets are the tokens of a text, how many of its bytes one stands for on average.
    groups: (n,) integers, the natural client of each training example, where the data set has users.
    test_x, test_y: None where the objective on the training set is what is evaluated (the paper's logistic
    regression). Raises DataError where these don't fit together.
    """

    x: np.ndarray
    y: np.ndarray
    classes: int = 0
    test_x: np.ndarray | None = None
    test_y: np.ndarray | None = None
    groups: np.ndarray | None = None
    scale: float = 1.0
    shift: float = 0.0
    targets: Targets = "classes"
    vocabulary: int | None = None
    bytes_per_token: float | None = None

    def __post_init__(self) -> None:
        if self.targets not in KINDS:
            raise DataError(f"data set: targets = {self.targets!r}; one of {', '.join(KINDS)}")
        for name in ("x", "y", "test_x", "test_y", "groups"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, _KINDS[name](f"data set: {name}", value))
        if not self.classes:
            object.__setattr__(self, "classes", outputs_of(self.targets, self.y))
        for name in ("classes", "vocabulary"):
            if (getattr(self, name) or 0) > MOST_CLASSES:
                raise DataError(f"data set: {name} = {getattr(self, name):,}; at most {MOST_CLASSES:,}")
        self._check("training", self.x, self.y)
        if (self.test_x is None) != (self.test_y is None):
            raise DataError("data set: test_x and test_y go together")
        if self.test_x is not None and self.test_y is not None:
            self._check("test", self.test_x, self.test_y)
            if self.test_x.shape[1:] != self.shape:
                raise DataError(
                    f"data set: training examples of shape {self.shape}, test examples of {self.test_x.shape[1:]}"
                )
        if self.groups is not None and len(self.groups) != len(self.y):
            raise DataError(f"data set: {len(self.groups)} groups for {len(self.y)} training examples")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return self.x.shape[1:]

    @property
    def signature(self) -> Signature:
        """What a model has to fit."""
        return Signature(self.shape, self.classes, self.vocabulary, self.targets)

    @property
    def evaluated(self) -> tuple[np.ndarray, np.ndarray]:
        """The test set, or the training set where there is none."""
        if self.test_x is None or self.test_y is None:
            return self.x, self.y
        return self.test_x, self.test_y

    def entropy_bits_per_byte(self) -> float:
        """Bits per byte of the evaluated text for whoever knows its tokens' frequencies alone; nan: it is no text."""
        if self.bytes_per_token is None:
            return math.nan
        return text.entropy_bits(self.evaluated[1], self.classes) / self.bytes_per_token

    def digest(self) -> str:
        """The number of training examples and the CRC-32C of all arrays: one pass over memory."""
        crc = 0
        for array in (self.x, self.y, self.test_x, self.test_y, self.groups):
            if array is not None:
                crc = crc32.iscsi(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, crc)
        return f"{len(self.y)} examples {crc:08x}"

    def _check(self, part: str, x: np.ndarray, y: np.ndarray) -> None:
        require_examples(f"data set, {part} part", x, y)
        if self.vocabulary is not None:
            if x.dtype.kind not in "iu" or x.min() < 0 or x.max() >= self.vocabulary:
                raise DataError(
                    f"data set, {part} part: tokens are {x.dtype} from {x.min()} to {x.max()}; "
                    f"make them integers in 0 .. {self.vocabulary - 1}"
                )
        elif x.dtype != np.uint8 and x.dtype.kind != "f":
            raise DataError(
                f"data set, {part} part: examples are {x.dtype}; make them floats, or uint8 pixels, "
                "or tokens with vocabulary="
            )
        check_targets(part, self.targets, y, self.classes)
        arrays.require_finite(part, x)
        arrays.require_finite(part, y, "target")


MOST_CLASSES = 1 << 24  # a model has an output for each: more come from labels that are none
PIXEL_SCALE, PIXEL_SHIFT = 1 / 127.5, -1.0  # bytes to [−1, 1]


def digits(config: TaskConfig, data_dir: Path | None, clients: int, seed: int) -> Dataset:
    """scikit-learn's 1,797 digits of 8×8, pixels to [0, 1]; 80% to train, by a fixed permutation."""
    # Its file is read without importing scikit-learn: on every rank that import takes longer than this whole task.
    package = find_spec("sklearn")
    path = Path(next(iter(package.submodule_search_locations or [])) if package else "") / DIGITS_FILE
    try:
        table = np.loadtxt(path, delimiter=",", dtype=np.float32)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: the digits that come with scikit-learn can't be read: {error}") from error
    if table.ndim != 2 or table.shape[1] != 65 or not (np.isfinite(table) & (table == np.rint(table))).all():
        raise DataError(f"{path}: not lines of 64 pixels and a label, all of them whole numbers")
    order = np.random.default_rng(SPLIT_SEED).permutation(len(table))
    x, y = table[order, :64] / np.float32(16), table[order, 64].astype(np.int64)
    cut = len(y) * 4 // 5
    return Dataset(x[:cut], y[:cut], 10, x[cut:], y[cut:])


def mushrooms(config: TaskConfig, data_dir: Path | None, clients: int, seed: int) -> Dataset:
    """LIBSVM's mushrooms: 8,124 examples, 112 binary features, and a constant one for the bias.

    All of it trains and all of it is evaluated, as in the paper's logistic regression.
    """
    path = formats.locate("mushrooms", ("mushrooms.libsvm", "mushrooms.txt"), data_dir)
    features, labels = formats.read_libsvm(path, features=112)
    x = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    return Dataset(x, labels, 2)


def fashion_mnist(config: TaskConfig, data_dir: Path | None, clients: int, seed: int) -> Dataset:
    """60,000 and 10,000 images of 28×28 in 10 classes, zero-padded to 1×32×32, pixels to [−1, 1]."""
    parts = []
    for split in ("train", "t10k"):
        images, labels = (
            formats.locate(
                "fashion-mnist",
                (f"{split}-{part}-ubyte", f"{split}-{part}-ubyte.gz"),
                data_dir,
                SYSTEM_FASHION_MNIST,
                how="`apt-get install dataset-fashion-mnist`, or `qafel-mpi data fetch fashion-mnist`",
            )
            for part in ("images-idx3", "labels-idx1")
        )
        pixels = formats.read_idx(images, dimensions=3)
        if pixels.shape[1:] != (28, 28):
            raise DataError(f"{images}: images of {pixels.shape[1:]}, expected (28, 28)")
        y = formats.read_idx(labels, dimensions=1)
        if len(y) != len(pixels):
            raise DataError(f"{labels}: {len(y)} labels for the {len(pixels)} images of {images}")
        parts += [np.pad(pixels, ((0, 0), (2, 2), (2, 2)))[:, None], y]
    return Dataset(parts[0], parts[1], 10, parts[2], parts[3], scale=PIXEL_SCALE, shift=PIXEL_SHIFT)


def celeba(config: TaskConfig, data_dir: Path | None, clients: int, seed: int) -> Dataset:
    """CelebA's attribute Smiling at 3×32×32, pixels to [−1, 1]; users are celebrities, 80% of them train.

    The files: see celeba.py.
    """
    root = formats.locate(
        "celeba",
        ("celeba", "img_align_celeba"),
        data_dir,
        how="get it from its authors, mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    )
    train, test = read_celeba(root)
    return Dataset(train.x, train.y, 2, test.x, test.y, train.user, scale=PIXEL_SCALE, shift=PIXEL_SHIFT)


def cifar10(config: TaskConfig, data_dir: Path | None, clients: int, seed: int) -> Dataset:
    """50,000 and 10,000 images of 3×32×32 in 10 classes, pixels to [−1, 1]; python or binary batches."""
    root = formats.locate("cifar10", ("cifar-10-batches-py", "cifar-10-batches-bin"), data_dir)
    (x, y), (test_x, test_y) = formats.read_cifar10(root)
    return Dataset(x, y, 10, test_x, test_y, scale=PIXEL_SCALE, shift=PIXEL_SHIFT)


def stdlib_text(config: TaskConfig, data_dir: Path | None, clients: int, seed: int) -> Dataset:
    """The standard library's source as bytes, each predicted from those before it; users are modules.

    Where users are the clients, the `clients` longest modules train: one a client, whatever the version of Python.
    """
    train, test = read_stdlib(config.bytes_per_client)
    if config.partition.kind == "natural":
        longest = sorted(train, key=lambda name: (-len(train[name]), name))[:clients]
        train = {name: train[name] for name in sorted(longest)}
    context = config.context or text.USUAL_CONTEXT
    x, y, user = text.windows(list(train.values()), context)
    return Dataset(
        x,
        y,
        text.VOCABULARY,
        *text.mixed(text.windows(list(test.values()), context)),
        groups=user,
        targets="tokens",
        vocabulary=text.VOCABULARY,
        bytes_per_token=1.0,
    )


def synthetic(config: TaskConfig, data_dir: Path | None, clients: int, seed: int) -> Dataset:
    """Classes around random means, noise beside them: learnable, of any shape and size.

    Users: every example belongs to one of `clients` at random, each having one at least.
    """
    shape, classes = synthetic_shape(config)
    generator = np.random.Generator(np.random.Philox(key=derive(seed, Stream.DATA)))
    means = generator.standard_normal((classes, *shape)).astype(np.float32)

    def made(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = generator.integers(0, classes, n)
        x = generator.standard_normal((n, *shape), dtype=np.float32)
        x *= np.float32(config.noise)
        x += means[y]
        return x, y.astype(np.int64)

    examples = config.examples or max(10_000, clients)
    x, y = made(examples)
    test_x, test_y = made(max(2, min(examples // 4, 2_000)))
    groups = generator.integers(0, clients, len(y))
    groups[: min(clients, len(y))] = np.arange(min(clients, len(y)))
    return Dataset(x, y, classes, test_x, test_y, groups)


def synthetic_shape(config: TaskConfig) -> tuple[tuple[int, ...], int]:
    """(shape, classes) of made data: as given, else what the model usually sees. Raises DataError."""
    if config.model == "resnet18" and config.shape is None:
        raise DataError(
            "model resnet18 on synthetic images: set task.shape = [3, 32, 32] or [3, 224, 224] to train it; "
            "for messages of its size without training, set task.model = 'vectors:resnet18'"
        )
    usual = {"cnn": ((3, 32, 32), 10), "logistic": ((112,), 2)}
    shape, classes = usual.get(config.model, ((64,), 10))
    return config.shape or shape, config.classes or classes


DATASETS: dict[str, Callable[[TaskConfig, Path | None, int, int], Dataset]] = {
    "digits": digits,
    "mushrooms": mushrooms,
    "fashion-mnist": fashion_mnist,
    "celeba": celeba,
    "cifar10": cifar10,
    "stdlib-text": stdlib_text,
    "synthetic": synthetic,
}
