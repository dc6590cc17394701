"""FolderSource: each picture below a folder once, in the order of the ids, whatever names and links there are."""

import os
import subprocess
import sys

import pytest

from caption.errors import InputError
from caption.sources import open_source

linux = pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such names")


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


@pytest.fixture
def deep(root):
    """A root for trees that Python's own tools can't remove."""
    yield root
    subprocess.run(["rm", "-rf", root], check=True)


def put(root, *names):
    for name in names:
        path = os.path.join(os.fsencode(root), name if isinstance(name, bytes) else name.encode())
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"x")


def source_of(root, seed=0):
    return open_source(root, seed, root.parent / "out")


def ids(root):
    return [item.id for item in source_of(root).items()]


def test_all_below_in_the_order_of_their_ids(root):
    names = ["a-b.jpg", "a/b.jpg", "a.jpg", "a/b/c.png", "a/b-c.png", "a0.jpg", "A.jpg", "B/x.jpg", "b.JPG", "z.jpg",
             "a b.jpg", "ä.jpg", "日本.jpg", "a!/x.jpg", "a/.x.jpg", "😀.jpg", "\uffee.jpg"]  # fmt: skip
    put(root, *names)
    assert ids(root) == sorted(names)


@linux
def test_case_twins_are_two_pictures(root):
    put(root, "a.jpg", "A.jpg", "a.JPG", "X/p.png", "x/p.png")
    assert ids(root) == ["A.jpg", "X/p.png", "a.JPG", "a.jpg", "x/p.png"]


def test_item_says_where_and_its_seed_counts_up(root):
    put(root, "b.png", "a/x.png", "notes.txt")
    first, second = source_of(root, seed=40).items()
    assert (first.index, first.id, first.image, first.seed) == (0, "a/x.png", "a/x.png", 40)
    assert first.where == str(root / "a" / "x.png")
    assert (second.index, second.id, second.seed) == (1, "b.png", 41)


def test_endings_in_any_case_and_all_others_counted_as_ignored(root):
    endings = ["jpg", "jpeg", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif"]
    put(root, *(f"1.{ending}" for ending in endings), *(f"2.{ending.upper()}" for ending in endings), "3.JpG")
    put(root, "notes.txt", "jpg", "x.jpg.part", "sub/Thumbs.db", "sub/raw.cr2", "x.svg", "x.mp4")
    source = source_of(root)
    assert len(list(source.items())) == 2 * len(endings) + 1
    assert source.ignored == 7
    assert len(list(source.items())) == 2 * len(endings) + 1, "each walk is a fresh one"
    assert source.ignored == 7


def test_spaces_quotes_and_newlines_in_names(root):
    names = [" x.jpg", 'say "x".jpg', "it's.jpg", "two\nlines.jpg", "tab\t.jpg", "back\\slash.jpg", "9%.jpg", "#.jpg"]
    put(root, *names, "new\nfolder/a.jpg")
    assert ids(root) == sorted([*names, "new\nfolder/a.jpg"])


@linux
def test_bytes_that_are_no_utf8_stand_as_percent_and_hex(root):
    put(root, b"caf\xe9.jpg", b"\xff\xfe/\x80.jpg", "plain%41.jpg")
    found = {item.id: item.where for item in source_of(root).items()}
    assert list(found) == ["%FF%FE/%80.jpg", "caf%E9.jpg", "plain%41.jpg"]
    assert os.fsencode(found["%FF%FE/%80.jpg"]) == os.fsencode(root) + b"/\xff\xfe/\x80.jpg"
    assert all(os.path.exists(where) for where in found.values())


@linux
@pytest.mark.parametrize(
    "names",
    [
        [b"a\xff.jpg", "a%FF.jpg"],
        [b"a\xff.jpg", "a%FF.jpg", "a%ff.jpg"],
        [b"a\x80.jpg", "a%80.jpg"],  # hex digits that have no case
        [b"a\xff%FE.jpg", b"a%FF\xfe.jpg"],  # neither is literally what it is shown as
        [b"a\xff.jpg", "a%FF.jpg", "a%%FF.jpg", "a%%%FF.jpg"],
        [b"a\xff/x.jpg", "a%FF/x.jpg"],
    ],
)
def test_no_two_files_share_an_id(root, names):
    put(root, *names)
    found = [(item.id, item.where) for item in source_of(root).items()]
    assert len({id for id, _ in found}) == len({where for _, where in found}) == len(names)
    for id, where in found:
        id.encode()
        assert os.path.exists(where)
    literal = {name for name in names if isinstance(name, str)}
    assert literal <= {id for id, _ in found}, "a valid name is its own id"
    assert [id for id, _ in found] == sorted(id for id, _ in found)


def test_symbolic_link_loops_end(root):
    put(root, "a/x.jpg", "y.jpg")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a")
    (root / "round").symlink_to("round")
    assert ids(root) == ["a/x.jpg", "y.jpg"]


def test_linked_sibling_folder_is_read(root):
    put(root, "real/x.jpg")
    put(root.parent / "elsewhere", "y.jpg")
    (root / "linked").symlink_to("real")
    (root / "out of it").symlink_to(root.parent / "elsewhere")
    assert ids(root) == ["linked/x.jpg", "out of it/y.jpg", "real/x.jpg"]


def test_input_that_is_itself_a_link(root):
    put(root, "x.jpg")
    link = root.parent / "link"
    link.symlink_to(root)
    assert ids(link) == ["x.jpg"]


def test_output_inside_the_input_is_never_read(root):
    put(root, "x.jpg", "out/copy.jpg", "out/deep/copy.jpg")
    source = open_source(root, 0, root / "out")
    assert [item.id for item in source.items()] == ["x.jpg"]
    assert source.ignored == 0


def test_output_inside_the_input_is_never_read_through_a_link(root):
    put(root, "x.jpg", "out/copy.jpg")
    (root / "link").symlink_to("out")
    (root.parent / "other name").symlink_to(root / "out")
    source = open_source(root, 0, root.parent / "other name")
    assert [item.id for item in source.items()] == ["x.jpg"]


def test_output_made_after_the_source_was_opened_is_never_read(root):
    """A run opens its input before it makes its output folder."""
    put(root, "x.jpg")
    source = open_source(root, 0, root / "out")
    put(root, "out/copy.jpg", "out/captions.jsonl")
    assert [item.id for item in source.items()] == ["x.jpg"]
    assert source.ignored == 0


def test_unreadable_folder_is_a_warning_and_the_rest_goes_on(root, monkeypatch):
    """One folder refuses to be listed, as one without permission does to anybody but root."""
    put(root, "a/x.jpg", "b/y.jpg", "c/z.jpg")
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    source = source_of(root)
    assert [item.id for item in source.items()] == ["a/x.jpg", "c/z.jpg"]
    assert len(source.warnings) == 1
    assert f"{root / 'b'}: Permission denied" in source.warnings[0]
    list(source.items())
    assert len(source.warnings) == 1, "a fresh walk begins without the warnings of the last"


@pytest.mark.parametrize("mode", [0o000, 0o400])  # not to be listed; listed, but what is in it not to be looked at
def test_folder_without_permission_is_a_warning(root, mode):
    put(root, "a/x.jpg", "b/deep/y.jpg")
    (root / "b").chmod(mode)
    if os.access(root / "b", os.X_OK):
        (root / "b").chmod(0o700)
        pytest.skip("root may read everything")
    try:
        source = source_of(root)
        assert [item.id for item in source.items()] == ["a/x.jpg"]
        assert len(source.warnings) == 1
    finally:
        (root / "b").chmod(0o700)


@linux
def test_tree_deeper_than_python_may_recurse(deep, monkeypatch):
    depth = 1500
    put(deep, "z.jpg")
    monkeypatch.chdir(deep)
    for _ in range(depth):
        os.mkdir("d")
        os.chdir("d")
    open("x.jpg", "wb").close()
    assert ids(deep) == ["d/" * depth + "x.jpg", "z.jpg"]


@linux
def test_path_too_long_for_the_system_is_a_warning(deep, monkeypatch):
    """Pictures that no path can reach must not be missing in silence."""
    put(deep, "z.jpg")
    monkeypatch.chdir(deep)
    for _ in range(22):
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
    open("x.jpg", "wb").close()
    source = source_of(deep)
    assert [item.id for item in source.items()] == ["z.jpg"]
    assert len(source.warnings) == 1
    assert "too long" in source.warnings[0]


def test_dangling_link_is_an_item_so_that_it_gets_a_row(root):
    (root / "x.jpg").symlink_to("nowhere")
    assert ids(root) == ["x.jpg"]


def test_folder_called_like_a_picture_is_a_folder(root):
    put(root, "x.jpg/y.jpg")
    assert ids(root) == ["x.jpg/y.jpg"]


@linux
def test_warning_and_description_can_be_printed(root, monkeypatch):
    put(root, b"caf\xe9/x.jpg")
    source = open_source(root / os.fsdecode(b"caf\xe9"), 0, root / "out")
    source.described.encode()
    (root / os.fsdecode(b"caf\xe9") / "x.jpg").unlink()
    (root / os.fsdecode(b"caf\xe9")).rmdir()
    assert list(source.items()) == []
    assert len(source.warnings) == 1
    source.warnings[0].encode()


@pytest.mark.parametrize("name", ["missing", "file.txt/deeper", "x" * 300, "nul\0"])
def test_input_that_is_not_there_is_one_sentence(root, name):
    put(root, "file.txt")
    with pytest.raises(InputError):
        open_source(root / name, 0, root / "out")


def test_input_that_is_a_file_is_one_sentence(root):
    put(root, "x.jpg")
    with pytest.raises(InputError, match="not a folder"):
        open_source(root / "x.jpg", 0, root / "out")
