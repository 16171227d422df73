"""Data sets, from small files in the exact formats, and from the real ones where they are."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qafel_mpi.tasks import DataError, Dataset
from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.datasets import DATASETS, SYSTEM_FASHION_MNIST


def load(name: str, folder: Path | None, clients: int = 3, **settings: object) -> Dataset:
    config = TaskConfig.model_validate({"dataset": name, **settings})
    return DATASETS[name](config, folder, clients, 0)


# --- digits, synthetic --------------------------------------------------------------------------------


def test_digits_have_one_fixed_split() -> None:
    one, other = load("digits", None), DATASETS["digits"](TaskConfig(), None, 9, 123)
    assert one.x.shape == (1437, 64)
    assert one.test_x is not None
    assert one.test_x.shape == (360, 64)
    assert np.array_equal(one.x, other.x)
    assert one.x.min() == 0
    assert one.x.max() == 1


def test_synthetic_has_the_shape_asked_for_and_an_example_for_every_client() -> None:
    data = load("synthetic", None, clients=20_000, shape=[3, 4], classes=5)
    assert data.x.shape == (20_000, 3, 4)
    assert set(np.unique(data.y)) == set(range(5))
    assert data.groups is not None
    assert len(np.unique(data.groups)) == 20_000
    assert len(load("synthetic", None, examples=50, model="cnn").x) == 50


def test_a_data_set_that_does_not_fit_together_is_refused() -> None:
    x, y = np.zeros((4, 2), np.float32), np.array([0, 1, 2, 1])
    cases: list[tuple[Callable[[], Dataset], str]] = [
        (lambda: Dataset(x, y[:3], 3), "4 examples and 3 labels"),
        (lambda: Dataset(x, y, 2), r"labels from 0 to 2, which is not 0 \.\. 1"),
        (lambda: Dataset(x.astype(int), y, 3), "make them floats, or uint8"),
        (lambda: Dataset(x, y.astype(float), 3), "make them integers"),
        (lambda: Dataset(x, y, 3, x), "test_x and test_y go together"),
        (lambda: Dataset(x, y, 3, np.zeros((1, 3), np.float32), y[:1]), r"shape \(2,\), test .* \(3,\)"),
        (lambda: Dataset(x, y, 3, groups=y[:2]), "2 groups for 4"),
    ]
    for make, message in cases:
        with pytest.raises(DataError, match=message):
            make()


# --- mushrooms ----------------------------------------------------------------------------------------


def test_mushrooms_are_libsvm_rows_with_a_bias(tmp_path: Path) -> None:
    (tmp_path / "mushrooms.libsvm").write_text("2 1:1 112:1 \n1 3:1\n\n2 2:0.5\n")
    data = load("mushrooms", tmp_path)
    assert data.x.shape == (3, 113)
    assert data.x[0].nonzero()[0].tolist() == [0, 111, 112]
    assert data.x[2, 1] == 0.5
    assert data.y.tolist() == [1, 0, 1]
    assert data.test_x is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 1:1\n2 113:1\n", "line 2: feature 113 is not in 1 .. 112"),
        ("1 1:1\n2 5\n", "line 2: '5' is not of the form index:value"),
        ("1 1:1\nx 5:1\n", "line 2: label 'x' is not a finite decimal number"),
        ("1 1:1\nnan 5:1\n", "line 2: label 'nan' is not"),
        ("1 1:nan\n2 5:1\n", "line 1: feature 1's value 'nan' is not a finite decimal number"),
        ("1 1:1\n2 5:1e999\n", "line 2: feature 5's value '1e999' is not"),
        ("1 1:1_0\n2 5:1\n", "line 1: feature 1's value '1_0' is not"),
        ("1 1_0:1\n2 5:1\n", "line 1: feature '1_0' is not a whole number"),
        ("1 1:1\n2 \u0665:1\n", "line 2: feature '\u0665' is not a whole number"),
        ("1 1:1\n2 5:1 4:0 5:1\n", "line 2: feature 5 occurs twice"),
        ("\n", "0 examples with labels none; exactly two"),
        ("2 1:1\n2 5:1\n", "2 examples with labels 2; exactly two labels are needed"),
        ("0 1:1\n1 5:1\n2 5:1\n", "3 examples with labels 0, 1, 2; exactly two"),
    ],
)
def test_a_corrupt_libsvm_file_is_named_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mushrooms.libsvm").write_text(text)
    with pytest.raises(DataError, match=f"mushrooms.libsvm.*{message}"):
        load("mushrooms", tmp_path)


def test_libsvm_may_have_comments_a_byte_order_mark_signs_and_any_line_ends(tmp_path: Path) -> None:
    text = "\ufeff# made by hand\r\n+1 3:+2.5 1:1e-1 # two\r\n\r\n-1 2:.5\r\n"
    (tmp_path / "mushrooms.libsvm").write_bytes(text.encode())
    data = load("mushrooms", tmp_path)
    assert data.y.tolist() == [1, 0]
    assert data.x[:, :3].tolist() == [[0.1, 0, 2.5], [0, 0.5, 0]]


def test_a_binary_file_in_place_of_libsvm_is_named_with_the_byte(tmp_path: Path) -> None:
    (tmp_path / "mushrooms.libsvm").write_bytes(b"1 1:1\n\xff\xfe")
    with pytest.raises(DataError, match=r"mushrooms\.libsvm, byte 6: not text"):
        load("mushrooms", tmp_path)


def test_the_real_mushrooms() -> None:
    folder = os.environ.get("QAFEL_DATA_DIR")
    if not folder or not (Path(folder) / "mushrooms.libsvm").exists():
        pytest.skip("needs mushrooms.libsvm in QAFEL_DATA_DIR")
    data = load("mushrooms", Path(folder))
    assert data.x.shape == (8124, 113)
    assert np.bincount(data.y).tolist() == [3916, 4208]
    assert (data.x.sum(axis=1) == 22).all()  # 21 attributes and the bias


# --- Fashion-MNIST ------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six and two images, one part plain and one part gzipped."""
    monkeypatch.setattr("qafel_mpi.tasks.datasets.SYSTEM_FASHION_MNIST", tmp_path / "none")
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    pixels = np.arange(8 * 28 * 28, dtype=np.uint64).astype(np.uint8).reshape(8, 28, 28)
    labels = np.arange(8, dtype=np.uint8)
    (folder / "train-images-idx3-ubyte").write_bytes(idx(pixels[:6]))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(labels[:6]))
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels[6:])))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels[6:])))
    return tmp_path


def test_fashion_mnist_is_padded_and_stays_bytes(fashion: Path) -> None:
    for folder in (fashion, fashion / "fashion-mnist"):
        data = load("fashion-mnist", folder)
        assert data.x.shape == (6, 1, 32, 32)
        assert data.x.dtype == np.uint8
        assert data.x[1, 0, 2, 2:6].tolist() == [16, 17, 18, 19]  # 784 mod 256
        assert data.x[:, :, :2].max() == 0
        assert data.test_y is not None
        assert data.test_y.tolist() == [6, 7]
        assert (0 * data.scale + data.shift, 255 * data.scale + data.shift) == (-1, 1)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("train-images-idx3-ubyte", lambda b: b[:-1], "asks for 4720: cut short"),
        (
            "train-images-idx3-ubyte",
            lambda b: b"\0\0\x0d\x03" + b[4:],
            "not an IDX file of unsigned bytes in 3",
        ),
        ("train-images-idx3-ubyte", lambda b: b[:4] + b"\xff" * 12 + b[16:], "cut short"),
        ("train-labels-idx1-ubyte", lambda b: b"", "not an IDX file"),
        ("train-labels-idx1-ubyte", lambda b: idx(np.zeros(5, np.uint8)), "5 labels for the 6 images"),
        ("t10k-images-idx3-ubyte.gz", lambda b: b[:-20], "can't be read"),
        ("t10k-labels-idx1-ubyte.gz", lambda b: b"PK" + b[2:], "can't be read"),
    ],
)
def test_a_damaged_idx_file_is_named(
    fashion: Path, file: str, damage: Callable[[bytes], bytes], message: str
) -> None:
    path = fashion / "fashion-mnist" / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"{file}.*{message}"):
        load("fashion-mnist", fashion)


def test_a_missing_file_says_where_it_was_looked_for_and_how_to_get_it(fashion: Path) -> None:
    (fashion / "fashion-mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError) as caught:
        load("fashion-mnist", fashion)
    for part in (
        "t10k-labels-idx1-ubyte",
        str(fashion),
        "dataset-fashion-mnist",
        "data fetch",
        "QAFEL_DATA_DIR",
    ):
        assert part in str(caught.value)


def test_the_real_fashion_mnist() -> None:
    if not SYSTEM_FASHION_MNIST.is_dir():
        pytest.skip("needs Debian's dataset-fashion-mnist")
    data = load("fashion-mnist", None)
    assert data.x.shape == (60_000, 1, 32, 32)
    assert np.bincount(data.y).tolist() == [6000] * 10
    assert data.test_y is not None
    assert len(data.test_y) == 10_000


# --- CIFAR-10 -----------------------------------------------------------------------------------------

CIFAR_FILES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def cifar_batch(number: int) -> tuple[np.ndarray, list[int]]:
    generator = np.random.default_rng(number)
    return generator.integers(0, 256, (4, 3072), dtype=np.uint8), generator.integers(0, 10, 4).tolist()


def protocol_2_by_python_2(pixels: np.ndarray, labels: list[int]) -> bytes:
    """As the authors wrote them: numpy's old module name, byte strings as keys."""
    content = pickle.dumps({b"data": pixels, b"labels": labels}, protocol=2)
    return content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


@pytest.fixture(params=["cifar-10-batches-py", "cifar-10-batches-bin"])
def cifar(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "cifar10" / request.param
    folder.mkdir(parents=True)
    for number, name in enumerate(CIFAR_FILES):
        pixels, labels = cifar_batch(number)
        if request.param.endswith("py"):
            (folder / name).write_bytes(protocol_2_by_python_2(pixels, labels))
        else:
            records = np.concatenate([np.array(labels, np.uint8)[:, None], pixels], axis=1)
            (folder / f"{name}.bin").write_bytes(records.tobytes())
    return folder


def test_cifar_batches_of_both_kinds_give_the_same(cifar: Path) -> None:
    data = load("cifar10", cifar.parent.parent)
    assert data.x.shape == (20, 3, 32, 32)
    assert np.array_equal(data.x[4:8].reshape(4, 3072), cifar_batch(1)[0])
    assert data.test_y is not None
    assert data.test_y.tolist() == cifar_batch(5)[1]


def test_a_cut_or_missing_cifar_batch_is_named(cifar: Path) -> None:
    path = sorted(cifar.glob("data_batch_3*"))[0]
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match=r"data_batch_3.*cut short"):
        load("cifar10", cifar.parent)
    path.unlink()
    with pytest.raises(DataError, match=r"data_batch_3.*No such file"):
        load("cifar10", cifar.parent)


def test_a_cifar_label_beyond_9_is_named_with_its_record(cifar: Path) -> None:
    pixels, labels = cifar_batch(2)
    labels[3] = 10
    if cifar.name.endswith("py"):
        (cifar / "data_batch_2").write_bytes(protocol_2_by_python_2(pixels, labels))
    else:
        records = np.concatenate([np.array(labels, np.uint8)[:, None], pixels], axis=1)
        (cifar / "data_batch_2.bin").write_bytes(records.tobytes())
    with pytest.raises(DataError, match=r"data_batch_2.*record 3: label 10"):
        load("cifar10", cifar.parent)


class Foreign:
    """What a pickle could do to whoever opens it."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("foreign-code-ran",)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (b"labels", [0.9, 1.0, 2.0, 3.0], "labels are float64, not integers"),
        (b"data", np.full((4, 3072), 0.5), "data are float64, not integers"),
        (b"data", np.full((4, 3072), 300), "data from 300 to 300, which is not 0 .. 255"),
    ],
)
def test_a_cifar_batch_is_not_cast_to_fit(tmp_path: Path, key: bytes, value: object, message: str) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels, labels = cifar_batch(0)
    batch = {b"data": pixels, b"labels": labels, key: value}
    (folder / "data_batch_1").write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(DataError, match=f"data_batch_1: .*{message}"):
        load("cifar10", tmp_path)


def test_a_foreign_object_in_a_cifar_batch_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(pickle.dumps({b"data": Foreign(), b"labels": []}, protocol=2))
    with pytest.raises(DataError, match=r"data_batch_1: not a CIFAR-10 python batch.*mkdir"):
        load("cifar10", tmp_path)
    assert not (tmp_path / "foreign-code-ran").exists()


# --- CelebA -------------------------------------------------------------------------------------------

ATTRIBUTES = ["5_o_Clock_Shadow", "Smiling", "Young"]
PER_CELEBRITY = {"7": 6, "30": 5, "200": 7, "4": 5, "11": 5, "12": 2}  # the last has too few


@pytest.fixture
def celeba(tmp_path: Path) -> Path:
    """30 JPEGs of 178×218 whose colour tells the image's number; every second one smiles."""
    root = tmp_path / "celeba"
    (root / "img_align_celeba").mkdir(parents=True)
    owners = [owner for owner, n in PER_CELEBRITY.items() for _ in range(n)]
    attributes, identity = [str(len(owners)), " ".join(ATTRIBUTES)], []
    for i, owner in enumerate(owners):
        name = f"{i + 1:06}.jpg"
        image = Image.new("RGB", (178, 218), (8 * i, 100, 255 - 8 * i))
        image.save(root / "img_align_celeba" / name)
        attributes.append(f"{name} -1 {1 if i % 2 else -1:2d}  1")
        identity.append(f"{name} {owner}")
    (root / "list_attr_celeba.txt").write_text("\n".join(attributes) + "\n")
    (root / "identity_CelebA.txt").write_text("\n".join(identity) + "\n")
    return root


def test_celeba_is_split_by_celebrity(celeba: Path) -> None:
    data = load("celeba", celeba.parent)
    assert data.groups is not None
    assert data.test_y is not None
    assert len(np.unique(data.groups)) == 4  # 80% of the five with enough images
    assert len(data.y) + len(data.test_y) == 28
    assert data.x.shape[1:] == (3, 32, 32)
    number = np.rint(data.x[:, 0, 16, 16] / 8).astype(int)
    assert (data.y == number % 2).all()
    owners = np.repeat(list(PER_CELEBRITY), list(PER_CELEBRITY.values()))
    for group in np.unique(data.groups):
        assert len(set(owners[number[data.groups == group]])) == 1


def test_celeba_decodes_its_images_once(celeba: Path) -> None:
    first = load("celeba", celeba.parent)
    kept = sorted(celeba.glob("images-32x32-*.npy"))
    assert len(kept) == 2
    for jpeg in (celeba / "img_align_celeba").iterdir():
        jpeg.unlink()
    assert np.array_equal(load("celeba", celeba).x, first.x)
    kept[0].write_bytes(kept[0].read_bytes()[:50])
    with pytest.raises(DataError, match=r"images-32x32-.*delete it"):
        load("celeba", celeba.parent)


Split = dict[str, dict[str, Sequence[object]]]


@pytest.fixture
def leaf(celeba: Path) -> Callable[[str, Split], Path]:
    """LEAF's folders; the function writes one part of its split: {user: {"x": images, "y": labels}}."""
    raw = celeba / "data" / "raw"
    raw.mkdir(parents=True)
    (celeba / "img_align_celeba").rename(raw / "img_align_celeba")

    def write(part: str, users: Split) -> Path:
        path = celeba / "data" / part / f"all_data_niid_0_keep_5_{part}_8.json"
        path.parent.mkdir(exist_ok=True)
        sizes = [len(user["x"]) for user in users.values()]
        path.write_text(json.dumps({"users": list(users), "num_samples": sizes, "user_data": users}))
        return path

    write(
        "train",
        {"7": {"x": ["000001.jpg", "000002.jpg"], "y": [1, 0]}, "30": {"x": ["000008.jpg"], "y": [0]}},
    )
    write("test", {"4": {"x": ["000020.jpg"], "y": [0.0]}})
    return write


def test_celeba_in_leafs_folders_with_leafs_split(celeba: Path, leaf: Callable[[str, Split], Path]) -> None:
    """Its labels are floats where the script ran under Python 3."""
    kinds: list[list[object]] = [[1, 0], [1.0, 0.0]]
    for labels in kinds:
        leaf(
            "train",
            {"7": {"x": ["000001.jpg", "000002.jpg"], "y": labels}, "30": {"x": ["000008.jpg"], "y": [0]}},
        )
        data = load("celeba", celeba.parent)
        assert data.y.tolist() == [1, 0, 0]
        assert data.groups is not None
        assert data.groups.tolist() == [0, 0, 1]
        assert data.test_y is not None
        assert data.test_y.tolist() == [0]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (0.9, "user_data, 4: label 0 0.9 is not a whole number"),
        ("1", "user_data, 4: label 0 '1' is not a whole number"),
        (True, "user_data, 4: label 0 True is not a whole number"),
        (2, r"user_data, 4: label 0 2 is not in 0 \.\. 1"),
        (float("nan"), "NaN is not a finite number"),
    ],
)
def test_a_label_of_leafs_that_is_none_is_named(
    celeba: Path, leaf: Callable[[str, Split], Path], label: object, message: str
) -> None:
    leaf("test", {"4": {"x": ["000020.jpg"], "y": [label]}})
    with pytest.raises(DataError, match=rf"test_8\.json.*{message}"):
        load("celeba", celeba.parent)


def test_a_damaged_split_of_leafs_is_named(celeba: Path, leaf: Callable[[str, Split], Path]) -> None:
    path = leaf("test", {"4": {"x": ["000020.jpg"], "y": [0]}})
    whole = path.read_text()
    for text, message in {
        "{": "not JSON",
        "[1]": "not LEAF's JSON for CelebA",
        whole.replace('"000020.jpg"', "20"): "not LEAF's JSON for CelebA: .*20 is not the name of an image",
        whole.replace('["4"]', '["4", "4"]'): "user_data, 4: the user occurs twice",
        whole.replace('"users"', '"user_data": {}, "users"'): "the key 'user_data' occurs twice",
    }.items():
        path.write_text(text)
        with pytest.raises(DataError, match=rf"test_8\.json.*{message}"):
            load("celeba", celeba.parent)
    (path.parent / f"._{path.name}").write_bytes(b"\0\5\x16\7")  # macOS leaves such a file on foreign disks
    path.write_text("\ufeff" + whole)
    assert len(load("celeba", celeba.parent).y) == 3


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("list_attr_celeba.txt", lambda t: t.replace("Smiling", "Grinning"), "line 2: no attribute Smiling"),
        (
            "list_attr_celeba.txt",
            lambda t: t.replace("  1  1", " +2  1", 1),
            r"line 4: 000002.jpg's .* '\+2' is not",
        ),
        (
            "list_attr_celeba.txt",
            lambda t: t.replace("  1  1", " yes 1", 1),
            "line 4: .*Smiling 'yes' is not one of",
        ),
        ("list_attr_celeba.txt", lambda t: t.replace("000002", "000001"), "line 4: 000001.jpg occurs twice"),
        (
            "list_attr_celeba.txt",
            lambda t: t.replace("30", "31", 1),
            "30 images; its first line says 31: cut short",
        ),
        (
            "identity_CelebA.txt",
            lambda t: t.replace(" 7\n", " 7_0\n", 1),
            "line 1: .*celebrity '7_0' is not a whole",
        ),
        ("identity_CelebA.txt", lambda t: t.replace("000002", "000001"), "line 2: 000001.jpg occurs twice"),
        ("list_attr_celeba.txt", lambda t: t[:-5], "line 32: .*fields, expected 4: cut short"),
        ("identity_CelebA.txt", lambda t: t[:-3], "line 30: 1 fields, expected 2"),
        (
            "identity_CelebA.txt",
            lambda t: t.replace("000003.jpg 7\n", ""),
            "no celebrity's number for 000003.jpg",
        ),
    ],
)
def test_damaged_celeba_lists_are_named_with_the_line(
    celeba: Path, file: str, damage: Callable[[str], str], message: str
) -> None:
    path = celeba / file
    path.write_text(damage(path.read_text()))
    with pytest.raises(DataError, match=f"{file}.*{message}"):
        load("celeba", celeba.parent)


def test_celeba_lists_may_have_plus_signs_comments_a_mark_and_no_count(celeba: Path) -> None:
    expected = load("celeba", celeba.parent).y
    path = celeba / "list_attr_celeba.txt"
    text = path.read_text().replace("  1  1\n", " +1 +1\n").removeprefix("30\n")
    path.write_text("\ufeff# the attributes\n" + text)
    assert np.array_equal(load("celeba", celeba.parent).y, expected)


def test_missing_and_damaged_images_are_named(celeba: Path) -> None:
    path = celeba / "img_align_celeba" / "000002.jpg"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"000002\.jpg: not a readable image"):
        load("celeba", celeba.parent)
    path.unlink()
    with pytest.raises(DataError, match=r"000002\.jpg: not a readable image.*No such file"):
        load("celeba", celeba.parent)


@pytest.mark.parametrize("name", ["mushrooms", "cifar10", "celeba"])
def test_data_that_are_not_there_say_how_to_get_them(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=rf"data set {name}: .*{tmp_path}.*(data fetch {name}|authors).*QAFEL_DATA"
    ):
        load(name, tmp_path)
