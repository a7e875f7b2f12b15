"""Data sets: folders, zips, public sets, and everything a user's files can have wrong with them."""

from __future__ import annotations

import hashlib
import io
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from mdi_exit import dataset, public_sets
from mdi_exit.cachefolder import CACHE_VARIABLE
from mdi_exit.dataset import DatasetError, ImageDataset, UnreadableImage


def png(colour: tuple[int, ...] | int, side: int = 8, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (side, side), colour).save(buffer, "PNG")
    return buffer.getvalue()


MEMBERS = {
    "dog/b.png": png((0, 200, 0)),
    "cat/a.png": png((200, 0, 0)),
    "dog/a.png": png((0, 0, 200)),
    "dog/grey.PNG": png(77, mode="L"),
    "cat/clear.png": png((1, 2, 3, 4), mode="RGBA"),
}


def write_folder(root: Path, members: dict[str, bytes]) -> Path:
    for name, content in members.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


Maker = Callable[[dict[str, bytes]], Path]


@pytest.fixture(params=["folder", "zip"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Maker:
    if request.param == "folder":
        return lambda members: write_folder(tmp_path / "data", members)
    return lambda members: write_zip(tmp_path / "data.zip", members)


def test_classes_are_sorted_folders_and_pixels_are_exact(make: Maker) -> None:
    data = ImageDataset.open(make(MEMBERS))
    assert data.classes == ("cat", "dog")
    assert data.names == ("cat/a.png", "cat/clear.png", "dog/a.png", "dog/b.png", "dog/grey.PNG")
    assert data.labels.dtype == np.int64 and data.labels.tolist() == [0, 0, 1, 1, 1]
    image = data.image(3)
    assert image.shape == (3, 8, 8) and image.dtype == np.uint8 and image.flags["C_CONTIGUOUS"]
    assert image[:, 5, 2].tolist() == [0, 200, 0]
    assert data.image(4)[:, 0, 0].tolist() == [77, 77, 77]
    assert data.image(1)[:, 0, 0].tolist() == [1, 2, 3]


def test_arrays_hold_every_image_and_report_progress(make: Maker) -> None:
    data = ImageDataset.open(make(MEMBERS))
    seen: list[int] = []
    pixels, labels = data.arrays(seen.append)
    assert seen == [1, 2, 3, 4, 5] == list(range(1, len(data) + 1))
    assert labels.tolist() == data.labels.tolist()
    assert all(np.array_equal(pixels[i], data.image(i)) for i in range(len(data)))


def test_one_folder_around_all_classes_is_not_a_class(make: Maker) -> None:
    data = ImageDataset.open(make({f"pets/{name}": content for name, content in MEMBERS.items()}))
    assert data.classes == ("cat", "dog")


def test_what_archivers_add_is_ignored(make: Maker) -> None:
    extra = {"__MACOSX/cat/a.png": b"x", "cat/.a.png": b"x", ".hidden/a.png": b"x", "cat/notes.txt": b"x"}
    assert ImageDataset.open(make({**MEMBERS, **extra})).names == ImageDataset.open(make(MEMBERS)).names


def test_images_outside_class_folders_are_refused(make: Maker) -> None:
    with pytest.raises(DatasetError, match=r"loose\.png lies in no class folder"):
        ImageDataset.open(make({**MEMBERS, "loose.png": png(0, mode="L")}))


def test_nothing_to_read_is_refused(make: Maker) -> None:
    with pytest.raises(DatasetError, match=r"no images in it; allowed are files ending in \.png"):
        ImageDataset.open(make({"cat/readme.txt": b"hello"}))


def test_missing_path_names_the_alternatives(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere: no such data set; .*'sample'.*cifar10") as error:
        ImageDataset.open(tmp_path / "nowhere")
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.zip"
    path.write_bytes(b"not a zip at all")
    with pytest.raises(DatasetError, match="not a readable zip"):
        ImageDataset.open(path)


def test_one_damaged_image_is_named_and_the_others_stay_readable(make: Maker) -> None:
    whole = MEMBERS["dog/a.png"]
    data = ImageDataset.open(make({**MEMBERS, "dog/a.png": whole[: len(whole) // 2], "cat/a.png": b"junk"}))
    for index, name in ((0, "cat/a.png"), (2, "dog/a.png")):
        with pytest.raises(UnreadableImage, match=f"{name} cannot be decoded"):
            data.image(index)
    assert data.image(3)[1, 0, 0] == 200
    with pytest.raises(UnreadableImage, match=r"cat/a\.png"):
        data.arrays()


def test_all_images_damaged_is_refused_at_once(make: Maker) -> None:
    with pytest.raises(DatasetError, match="none of the images looked at can be read"):
        ImageDataset.open(make({"cat/a.png": b"junk", "dog/a.png": b""}))


def test_damage_inside_a_zip_is_an_unreadable_image(tmp_path: Path) -> None:
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(noise, "PNG")
    path = write_zip(tmp_path / "data.zip", {**MEMBERS, "dog/noise.png": noise.getvalue()})
    content = bytearray(path.read_bytes())
    at = content.index(b"dog/noise.png") + len("dog/noise.png") + 40
    content[at] ^= 0xFF
    path.write_bytes(bytes(content))
    data = ImageDataset.open(path)
    with pytest.raises(UnreadableImage, match=r"dog/noise\.png"):
        data.image(data.names.index("dog/noise.png"))


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG", exif=Image.Exif())
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore")  # the decoders' remarks on what they got over
def test_whatever_is_damaged_in_a_zip_one_image_fails_and_no_more(tmp_path: Path) -> None:
    """Seeded damage at any byte of any member, its header too: an image or UnreadableImage, never another error."""
    whole = write_zip(tmp_path / "data.zip", {f"{'cat' if n % 2 else 'dog'}/{n}.jpg": jpeg(n) for n in range(4)})
    content = whole.read_bytes()
    directory = content.index(b"PK\x01\x02")
    unreadable = 0
    for seed in range(50):
        random = np.random.default_rng(seed)
        damaged = bytearray(content)
        for at in random.integers(0, directory, 3):
            damaged[at] = random.integers(0, 256)
        path = tmp_path / f"{seed}.zip"
        path.write_bytes(damaged)
        data = ImageDataset.open(path, image_size=32)
        for index in range(4):
            try:
                assert data.image(index).shape == (3, 32, 32)
            except UnreadableImage as error:
                assert data.names[index] in str(error)
                unreadable += 1
    assert 50 <= unreadable < 200


@pytest.mark.parametrize("error", [zlib.error, struct.error, OverflowError, IndexError, KeyError, TypeError, EOFError])
def test_what_a_decoder_trips_over_is_an_unreadable_image(
    error: type[Exception], make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ImageDataset.open(make(MEMBERS))

    def trip(*_: object, **__: object) -> None:
        raise error("damaged")

    monkeypatch.setattr(Image, "open", trip)
    with pytest.raises(UnreadableImage, match=r"cat/a\.png cannot be decoded"):
        data.image(0)


def test_a_damaged_directory_of_a_zip_is_refused_or_read(tmp_path: Path) -> None:
    content = write_zip(tmp_path / "data.zip", MEMBERS).read_bytes()
    refused = 0
    for at in range(content.index(b"PK\x01\x02"), len(content), 3):
        path = tmp_path / "damaged.zip"
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        try:
            ImageDataset.open(path, image_size=8)
        except DatasetError:
            refused += 1
    assert refused > 5


def test_16_bits_of_grey_are_scaled_and_unknown_whites_refused(make: Maker) -> None:
    grey, real = io.BytesIO(), io.BytesIO()
    Image.fromarray(np.full((8, 8), 0x8040, dtype=np.uint16)).save(grey, "PNG")
    real.write(b"P5 8 8 65535\n" + bytes([0x80, 0x40] * 64))
    data = ImageDataset.open(make({**MEMBERS, "cat/deep.png": grey.getvalue(), "dog/deep.ppm": real.getvalue()}))
    assert data.image(data.names.index("cat/deep.png"))[:, 3, 3].tolist() == [0x80] * 3
    with pytest.raises(UnreadableImage, match=r"dog/deep\.ppm.*mode I .*allowed are 8 or 16 bits"):
        data.image(data.names.index("dog/deep.ppm"))


def test_a_camera_held_upright_gives_an_upright_picture(make: Maker) -> None:
    """Stored lying, with EXIF orientation 6 (a quarter turn): the left end of what is stored is the top."""
    stored = np.zeros((16, 32, 3), dtype=np.uint8)
    stored[:, :16] = 255
    upright, buffer, exif = io.BytesIO(), io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(stored).save(buffer, "JPEG", exif=exif, quality=95)
    Image.new("RGB", (16, 32)).save(upright, "PNG")
    data = ImageDataset.open(make({"cat/camera.jpg": buffer.getvalue(), "cat/other.png": upright.getvalue()}))
    assert (data.height, data.width) == (32, 16)
    picture = data.image(0)
    assert picture.shape == (3, 32, 16) and picture[:, :15].min() > 240 and picture[:, 17:].max() < 15


def test_a_file_is_read_as_an_image_only_in_the_allowed_formats(make: Maker) -> None:
    """A TIFF called .png: the library could read it, but its decoder is none of those we let run."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "TIFF")
    data = ImageDataset.open(make({**MEMBERS, "cat/disguised.png": buffer.getvalue()}))
    with pytest.raises(UnreadableImage, match=r"cat/disguised\.png"):
        data.image(data.names.index("cat/disguised.png"))


def test_a_member_that_inflates_too_far_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(tmp_path / "data.zip", {**MEMBERS, "cat/bomb.png": bytes(5000)})
    monkeypatch.setattr(dataset, "MEMBER_BYTES_MAX", 4000)
    data = ImageDataset.open(path)
    with pytest.raises(UnreadableImage, match=r"cat/bomb\.png.*5000 bytes, the most allowed is 4000"):
        data.image(data.names.index("cat/bomb.png"))


def test_different_sizes_need_a_size(make: Maker) -> None:
    path = make({**MEMBERS, "dog/large.png": png((9, 9, 9), side=12)})
    with pytest.raises(DatasetError, match=r"cat/a\.png is 8x8, dog/large\.png is 12x12.*resize: true"):
        ImageDataset.open(path)
    data = ImageDataset.open(path, image_size=10)
    assert data.arrays()[0].shape == (6, 3, 10, 10)


def test_an_odd_size_that_the_header_check_skips_is_found_on_access(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "HEADERS_CHECKED_MAX", 1)
    data = ImageDataset.open(make({**MEMBERS, "dog/large.png": png((9, 9, 9), side=12)}))
    with pytest.raises(UnreadableImage, match=r"dog/large\.png is 12x12, the other images are 8x8"):
        data.image(data.names.index("dog/large.png"))


def test_resizing_crops_the_middle_and_does_not_squeeze(tmp_path: Path) -> None:
    wide = np.zeros((8, 24, 3), dtype=np.uint8)
    wide[:, 8:16] = 255
    buffer = io.BytesIO()
    Image.fromarray(wide).save(buffer, "PNG")
    data = ImageDataset.open(write_folder(tmp_path, {"a/wide.png": buffer.getvalue()}), image_size=8)
    assert data.image(0).min() == 255


def test_the_bundled_sample_is_balanced() -> None:
    data = ImageDataset.open("sample")
    assert len(data) == 1000 and (data.height, data.width) == (32, 32)
    assert np.bincount(data.labels).tolist() == [100] * 10
    assert data.classes[0] == "airplane" and data.classes[-1] == "truck"
    assert data.image(999).shape == (3, 32, 32)


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny archive in the layout of CIFAR-10's binary release, in a cache folder; its server answers nobody."""
    cache = tmp_path / "cache"
    cache.mkdir()
    archive = cache / "tiny.tar.gz"
    first = bytes([1]) + bytes([10] * 1024 + [20] * 1024 + [30] * 1024)
    second = bytes([0]) + bytes(range(256)) * 12
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in {"names.txt": b"bird\ncat\n\n", "train.bin": first + second, "test.bin": second}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    files: dict[str, tuple[str, ...]] = {"train": ("train.bin",), "test": ("test.bin",)}
    entry = public_sets._Release("http://127.0.0.1:9/tiny.tar.gz", md5, 1, files, "names.txt")
    monkeypatch.setitem(public_sets._RELEASES, "tiny", entry)
    return cache


def test_a_public_set_is_read_from_the_cache_without_a_network(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ImageDataset.open("tiny", part="train", cache=release)
    assert data.classes == ("bird", "cat") and data.labels.tolist() == [1, 0]
    assert data.image(0)[:, 31, 31].tolist() == [10, 20, 30]
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    shutil.copytree(release, tmp_path / "shared" / "mdi-exit")  # where exported networks are kept, too
    assert ImageDataset.open("tiny").labels.tolist() == [0]
    shutil.rmtree(tmp_path / "shared")
    monkeypatch.setenv(CACHE_VARIABLE, str(release))
    assert ImageDataset.open("tiny").labels.tolist() == [0]
    assert ImageDataset.open("tiny-train").labels.tolist() == [1, 0]


def test_a_public_set_that_cannot_be_fetched_says_where_to_put_it(release: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    with pytest.raises(DatasetError, match=r"tiny: cannot be fetched .*put tiny\.tar\.gz .*MDI_EXIT_CACHE") as error:
        ImageDataset.open("tiny", cache=empty)
    assert "\n" not in str(error.value) and str(empty) in str(error.value)


def test_a_tampered_archive_is_not_read(release: Path) -> None:
    with (release / "tiny.tar.gz").open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(DatasetError, match="tiny: cannot be fetched"):
        ImageDataset.open("tiny", cache=release)


def test_reading_data_traces_and_cards_needs_no_torch() -> None:
    code = "import sys, mdi_exit.dataset, mdi_exit.trace, mdi_exit.models.card; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
