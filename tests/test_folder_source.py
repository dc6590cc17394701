"""FolderSource: each picture below a folder once, in the order of the ids, whatever names and links there are."""

import itertools
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caption.errors import InputError
from caption.sources import open_source
from caption.sources.folder import as_id, as_name

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
    ("name", "id"),
    [
        (b"a\xff.jpg", "a%FF.jpg"),
        (b"a%FF.jpg", "a%25FF.jpg"),
        (b"a%ff.jpg", "a%ff.jpg"),
        (b"a%80.jpg", "a%2580.jpg"),
        (b"a%7F.jpg", "a%7F.jpg"),
        (b"a%25.jpg", "a%2525.jpg"),
        (b"a%2\xff.jpg", "a%2%FF.jpg"),
        (b"a%\xff.jpg", "a%%FF.jpg"),
        (b"a%%FF.jpg", "a%%25FF.jpg"),
        (b"\xe9%E9/x.jpg", "%E9%25E9/x.jpg"),
        (b"100%.jpg", "100%.jpg"),
        ("100%é.jpg".encode(), "100%é.jpg"),
    ],
)
def test_an_id_does_not_depend_on_siblings(root, name, id):
    """Else a picture added later could take the id, and with it the caption, of another."""
    put(root, name)
    assert ids(root) == [id]
    put(root, b"a\xff.jpg", b"a%FF.jpg", b"a%25FF.jpg", b"a\x80.jpg", b"\xe9\xe9/x.jpg")
    where = {item.id: item.where for item in source_of(root).items()}
    assert os.fsencode(where[id]) == os.fsencode(root) + b"/" + name
    assert list(where) == sorted(where)


NAMES = st.lists(
    st.sampled_from([b"%", b"2", b"5", b"25", b"F", b"f", b"8", b"%FF", b"\xff", b"\x80", b"\xc3\xa9", b"a", b"-"])
    | st.binary(min_size=1, max_size=3)
).map(b"".join)


@given(NAMES, NAMES)
def test_no_two_names_share_an_id(one, other):
    first, second = (as_id(os.fsdecode(name)) for name in (one, other))
    assert (first == second) == (one == other)
    assert os.fsencode(as_name(first)) == one
    first.encode()


@linux
@given(st.sets(NAMES.map(lambda name: re.sub(rb"[/\0]", b"_", name)[:200] + b".png"), max_size=8))
def test_whatever_the_names_each_picture_is_found_once_under_its_id(names):
    with tempfile.TemporaryDirectory() as folder:
        put(folder, *names)
        found = list(open_source(Path(folder), 0, Path(folder, "out")).items())
    assert [item.id for item in found] == sorted({item.id for item in found})
    assert {os.fsencode(item.where) for item in found} == {os.fsencode(folder) + b"/" + name for name in names}


def test_symbolic_link_loops_end(root):
    put(root, "a/x.jpg", "y.jpg")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a")
    (root / "round").symlink_to("round")
    assert ids(root) == ["a/x.jpg", "y.jpg"]


def test_link_to_a_folder_inside_is_not_followed_and_one_that_leads_outside_is(root):
    put(root, "real/x.jpg", "real/deep/y.jpg")
    put(root.parent / "elsewhere", "z.jpg", "deep/z.jpg")
    (root / "linked").symlink_to("real")
    (root / "a").symlink_to("real/deep")
    (root / "out of it").symlink_to(root.parent / "elsewhere")
    source = source_of(root)
    assert [item.id for item in source.items()] == [
        "out of it/deep/z.jpg", "out of it/z.jpg", "real/deep/y.jpg", "real/x.jpg"
    ]  # fmt: skip
    assert source.warnings == []


def test_folder_whose_name_begins_like_the_roots_is_outside(root):
    put(root.parent / "input", "x.jpg")
    (root / "a").symlink_to(root.parent / "input")
    assert ids(root) == ["a/x.jpg"]


def test_outside_folder_is_read_once_and_the_second_link_is_a_warning(root):
    outside = root.parent / "outside"
    put(outside, "x.jpg", "sub/y.jpg")
    for name, target in [("a", "outside"), ("b", "outside"), ("c", "outside/sub")]:
        (root / name).symlink_to(root.parent / target)
    source = source_of(root)
    for _ in range(2):
        assert [item.id for item in source.items()] == ["a/sub/y.jpg", "a/x.jpg"]
        assert source.warnings == [f"{root / name} leads to a folder that was read already" for name in "bc"]


def test_part_of_an_outside_folder_that_was_read_through_another_link_is_left_out(root):
    outside = root.parent / "outside"
    put(outside, "x.jpg", "sub/y.jpg")
    (root / "a").symlink_to(outside / "sub")
    (root / "b").symlink_to(outside)
    source = source_of(root)
    assert [item.id for item in source.items()] == ["a/y.jpg", "b/x.jpg"]
    assert source.warnings == [f"{root / 'b' / 'sub'} is a folder that was read already"]


def test_links_of_outside_folders_among_each_other_and_back_end(root):
    put(root, "x.jpg")
    one, two = root.parent / "one", root.parent / "two"
    put(one, "sub/x.jpg")
    put(two, "x.jpg")
    (one / "a-sub").symlink_to("sub")
    (one / "back").symlink_to(root)
    (one / "two").symlink_to(two)
    (two / "one").symlink_to(one)
    (root / "one").symlink_to(one)
    (root / "up").symlink_to(root.parent)
    source = source_of(root)
    assert [item.id for item in source.items()] == ["one/sub/x.jpg", "one/two/x.jpg", "x.jpg"]
    assert all("read already" in warning for warning in source.warnings)


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_mesh_of_folders_that_link_to_each_other_ends(root, where):
    folders = [(root if where == "inside" else root.parent) / f"{number:02}" for number in range(30)]
    for folder in folders:
        put(folder, "x.jpg")
        for other in folders:
            (folder / f"to-{other.name}").symlink_to(other)
    if where == "outside":
        (root / "in").symlink_to(folders[0])
    found = list(itertools.islice(source_of(root).items(), 1000))
    assert len(found) == len({os.path.realpath(item.where) for item in found}) == 30


def test_folders_that_are_no_links_are_never_resolved(root, monkeypatch):
    put(root, "a/b/c/x.jpg", "y.jpg")
    (root / "z.jpg").symlink_to("y.jpg")
    monkeypatch.setattr(os.path, "realpath", None)
    assert ids(root) == ["a/b/c/x.jpg", "y.jpg", "z.jpg"]


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


def test_output_outside_the_input_is_never_read_through_a_link(root):
    out = root.parent / "out"
    put(root, "x.jpg")
    put(out, "copy.jpg", "deep/copy.jpg")
    put(root.parent / "more", "y.jpg")
    (root.parent / "more" / "out").symlink_to(out)
    for name, target in [("a", out), ("b", out / "deep"), ("c", root.parent / "more"), ("d", root.parent)]:
        (root / name).symlink_to(target)
    source = source_of(root)
    assert [item.id for item in source.items()] == ["c/y.jpg", "x.jpg"]
    assert source.warnings[0] == f"{root / 'b'} leads into the output folder, which is never read"


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


def test_description_and_warnings_stay_on_their_line(root):
    folder = root / "two\nlines\x1b[2J\u2028"
    put(folder, "x.jpg")
    source = open_source(folder, 0, root / "out")
    assert source.described == f"folder {root}/two\\nlines\\x1b[2J\\u2028"
    (folder / "x.jpg").unlink()
    folder.rmdir()
    assert list(source.items()) == []
    assert source.warnings == [f"can't read the folder {root}/two\\nlines\\x1b[2J\\u2028: No such file or directory"]
    with pytest.raises(InputError) as refused:
        open_source(folder, 0, root / "out")
    assert "two\\nlines" in str(refused.value)


@pytest.mark.parametrize("name", ["missing", "file.txt/deeper", "x" * 300, "nul\0"])
def test_input_that_is_not_there_is_one_sentence(root, name):
    put(root, "file.txt")
    with pytest.raises(InputError):
        open_source(root / name, 0, root / "out")


def test_input_that_is_a_file_is_one_sentence(root):
    put(root, "x.jpg")
    with pytest.raises(InputError, match="not a folder"):
        open_source(root / "x.jpg", 0, root / "out")
